"""The rules of the house, each one small function whose message tells the fix."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "agent_forge"
MODULES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
FORBIDDEN = {"utils", "util", "common", "helpers", "helper", "core", "misc", "base", "manager", "engine"}
BACKUP = re.compile(r"(\.(bak|orig|rej|old|backup|swp|tmp)|~)$|^#.*#$|\(copy\)|[ _-]copy\d*\.")
FUNCTION_LINES, FILE_LINES, PHASE_LINES = 60, 400, 200


def name_of(path):
    return str(path.relative_to(ROOT))


def tracked_files():
    """What git tracks; in an unpacked archive, everything that is not made by a tool."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        return [path for place in ("src", "tests", "docs", "benchmarks") for path in (ROOT / place).rglob("*.*")]


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_and_files_are_short(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    allowed = PHASE_LINES if path.name == "phase.py" else FILE_LINES
    assert lines <= allowed, f"{name_of(path)} has {lines} lines, {allowed} are allowed: split it by subject"
    for node in functions(tree_of(path)):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        assert length <= FUNCTION_LINES, (
            f"{name_of(path)}:{node.lineno} {node.name} has {length} lines: split it by step"
        )


def test_no_name_says_nothing():
    named = [name_of(path) for path in SOURCE.rglob("*") if path.stem in FORBIDDEN and "__pycache__" not in path.parts]
    assert named == [], "a helper belongs to the noun that it serves"


def test_no_backup_files():
    found = [name_of(path) for path in tracked_files() if BACKUP.search(path.name)]
    assert found == [], "git keeps the old versions"


@pytest.mark.parametrize("name", ["a.py.bak", "a.orig", "a~", "#a#", "a (copy).py", "a_copy2.py"])
def test_backup_names_are_recognised(name):
    assert BACKUP.search(name)


@pytest.mark.parametrize("name", ["copying.md", "copy.py", "backup_plan.md", "tmpdir.py", "old.py"])
def test_honest_names_are_not_backups(name):
    assert not BACKUP.search(name)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_exception_is_swallowed(path):
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        silent = all(isinstance(each, ast.Pass) or is_text(each) for each in node.body)
        blind = node.type is None or (
            isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
        )
        assert not (silent and blind), (
            f"{name_of(path)}:{node.lineno} swallows everything: name the error, or let it pass"
        )


def is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def checks_something(node, checkers):
    """An assert, a ``pytest.raises`` or ``fail``, a call of ``assert_*``, or a call of a function here that has one."""
    for each in ast.walk(node):
        if isinstance(each, ast.Assert):
            return True
        if isinstance(each, ast.Call):
            called = each.func.attr if isinstance(each.func, ast.Attribute) else getattr(each.func, "id", "")
            if called in ("raises", "warns", "fail") or called.startswith("assert_") or called in checkers:
                return True
    return False


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_every_test_asserts(path):
    tree = tree_of(path)
    checkers = {
        node.name for node in functions(tree) if not node.name.startswith("test") and checks_something(node, ())
    }
    for node in functions(tree):
        if node.name.startswith("test_"):
            assert checks_something(node, checkers), f"{name_of(path)}:{node.lineno} {node.name} checks nothing"


def test_every_test_file_is_found_once():
    assert len(MODULES) > 20
    assert len(TESTS) == len({name_of(path) for path in TESTS}) > 5


MACHINE = re.compile(r"(?<![\w.~-])/(?:home|Users|root|work|opt/(?!homebrew))/?[\w.-]*")
REGISTRIES = re.compile(
    "|".join(
        re.escape(host)
        for host in (
            "pypi" + ".org",
            "files.pythonhosted" + ".org",
            "download.pytorch" + ".org",
            "registry.npmjs" + ".org",
        )
    )
)
BINARY = {".png", ".gz", ".zst", ".safetensors", ".db", ".forge", ".npz"}


def test_no_path_of_a_machine_and_no_registry_host_in_tracked_files():
    found = []
    for path in tracked_files():
        if path.suffix in BINARY:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for pattern in (MACHINE, REGISTRIES):
            found += [f"{name_of(path)}: {match.group()}" for match in pattern.finditer(text)]
    assert found == [], "a clone lives elsewhere, and a mirror has another name"


@pytest.mark.parametrize("text", ["/" + "home/ada/x", "(/" + "work/wt/", "C:x is /" + "Users/x"])
def test_paths_of_machines_are_recognised(text):
    assert MACHINE.search(text)


@pytest.mark.parametrize("text", ["data/work/x", "~/home/x", "and/or", "https://example.invalid/x", "/proc/cpuinfo"])
def test_other_slashes_are_not(text):
    assert not MACHINE.search(text)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["presets", "list"], ["sessions", "--help"]])
def test_help_and_listing_import_no_torch(arguments):
    program = (
        "import sys; sys.argv = ['agent-forge', *sys.argv[1:]]\n"
        "from agent_forge.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = sorted({'torch', 'transformers', 'sqlalchemy'} & set(sys.modules))\n"
        "print('HEAVY', heavy)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT / "src", check=True
    )
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout[-300:] + done.stderr[-300:]


def test_configurations_import_no_torch():
    program = "import sys, agent_forge.config, agent_forge.contract; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT / "src", check=True)
    assert done.stdout.strip() == "False"


def test_a_wrong_option_is_a_usage_error_and_no_traceback():
    program = (
        "import sys; sys.argv = ['agent-forge', 'run', '--no-such']; from agent_forge.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT / "src", check=False
    )
    assert done.returncode == 2
    assert "--no-such" in done.stderr
    assert "Traceback" not in done.stderr

"""Bad input through the command line: one sentence, the promised exit code, nothing written, nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import save_model
from agent_forge.storage.home import Home

GOOD_LINE = "Tom counted seven boats on the lake and wrote the number into his small green book.\n"
TWO = ("--phases", "cognate")


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def sessions(forge, home):
    return forge("sessions", "list", "--home", home, "--json").json()


def assert_nothing_is_left(forge, home):
    """Not even an empty home; and looking for what there is makes none."""
    assert sessions(forge, home) == []
    assert forge("models", "list", "--home", home, "--json").json() == []
    assert not home.exists()


# Text

BAD_TEXT = {
    "empty": (b"", "too little text"),
    "one line": (GOOD_LINE.encode(), "too little text"),
    "binary": (b"text\0" * 4000, "binary"),
    "not UTF-8": (GOOD_LINE.encode() * 200 + b"caf\xe9\n", "not UTF-8"),
    "broken JSON": (b'{"text": "a"}\n{"text": \n', "line 2"),
}


@pytest.mark.parametrize("kind", BAD_TEXT)
def test_text_that_cannot_be_used_leaves_nothing(forge, tiny_run, home, tmp_path, kind):
    body, said = BAD_TEXT[kind]
    source = tmp_path / ("bad.jsonl" if kind == "broken JSON" else "bad.txt")
    source.write_bytes(body)
    answer = forge(*tiny_run(), *TWO, "--data", source, "--home", home)
    assert answer.code == 2
    assert said in answer.sentence()
    assert_nothing_is_left(forge, home)


def test_a_refused_run_leaves_a_home_that_was_there_and_files_that_are_not_its_own(forge, home):
    home.mkdir()
    (home / "notes.txt").write_text("mine")
    assert forge("run", "--preset", "smoke", "--session", "../outside", "--home", home).code == 2
    assert [path.name for path in home.rglob("*")] == ["notes.txt"]
    Home.open(home).close()
    assert forge("run", "--preset", "smoke", "--session", "../outside", "--home", home).code == 2
    assert forge("verify", "--home", home, "--json").json()["ok"]


def test_a_refused_session_that_was_there_before_stays(forge, tiny_run, home, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text("".join(f"{number} {GOOD_LINE}" for number in range(400)))
    arguments = [*tiny_run(cognate__steps=10, handoffs="{}"), *TWO, "--data", source, "--home", home]
    assert forge(*arguments, "--session", "mine").code == 0
    before = forge("models", "list", "--home", home, "--json").json()
    source.write_bytes(b"\0" * 9000)
    answer = forge(*arguments, "--session", "mine")
    assert answer.code == 2
    assert "binary" in answer.sentence()
    assert [row["name"] for row in sessions(forge, home)] == ["mine"]
    assert forge("models", "list", "--home", home, "--json").json() == before
    assert forge("verify", "--home", home, "--json").json()["ok"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "no-such-file.txt"], "no-such-file.txt does not exist"),
        (["--eval-data", "no-such-file.txt"], "no-such-file.txt does not exist"),
        (["--data", "synthetic:stories:x"], "synthetic"),
        (["--set", "cognate.stepz=5"], "did you mean 'steps'"),
        (["--set", "limits.cognate.secnds=5"], "did you mean 'seconds'"),
        (["--set", "limits.cognat.seconds=5"], "did you mean 'cognate'"),
        (["--set", "gates.bitnett=[]"], "did you mean 'bitnet'"),
        (["--set", "cognate.model.hiden_size=5"], "did you mean 'hidden_size'"),
        (["--set", "cognate.steps=-1"], "cognate.steps = -1 cannot be"),
        (["--set", "cognate.steps=many"], "cognate.steps = 'many' cannot be"),
        (["--set", "cognate.steps=[1"], "cannot be read as YAML"),
        (["--set", "cognate.steps"], "--set takes key=value"),
        (["--set", "seed=-3"], "seed = -3 cannot be"),
        (["--preset", "smoek"], "did you mean 'smoke'"),
        (["--phases", "cognate,evomrge"], "did you mean 'evomerge'"),
        (["--phases", "compression"], "needs 'model'"),
        (["--phases", "cognate,cognate"], "named twice"),
        (["--session", "../outside"], "a session name has"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_arguments_that_cannot_be_leave_nothing(forge, home, tmp_path, monkeypatch, verb, arguments, said):
    if verb == "plan" and "--session" in arguments:
        arguments = ["--session", "fine", "--set", "session=1"]  # a plan starts no session, so its name is not used
        said = "unknown configuration key"
    monkeypatch.chdir(tmp_path)
    answer = forge(verb, "--preset", "smoke", *arguments, "--home", home)
    assert answer.code == 2
    assert said in answer.sentence()
    assert_nothing_is_left(forge, home)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_is_a_usage_error(forge, home):
    answer = forge("run", "--no-such-option", "--home", home)
    assert answer.code == 2
    assert "Traceback" not in answer.err
    assert not home.exists()


@pytest.mark.slow
def test_a_hundred_megabytes_without_a_line_end(forge, tiny_run, home, tmp_path):
    source = tmp_path / "huge.jsonl"
    source.write_bytes(b'{"text": "' + b"word " * 20_000_000 + b'"}\n')
    answer = forge(*tiny_run(), *TWO, "--data", source, "--home", home)
    assert answer.code == 2
    assert "line 1 is longer than 16 MB" in answer.sentence()
    assert_nothing_is_left(forge, home)


# Models


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([GOOD_LINE * 40], 300)


@pytest.fixture
def model_folder(tokenizer, tmp_path):
    """Writes a small sound checkpoint."""

    def written(name, tokens=tokenizer, seed=0, **changes):
        torch.manual_seed(seed)
        config = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                  "intermediate_size": 24, "short_convolution": 0, "zero_init_output": False}  # fmt: skip
        return save_model(CognateForCausalLM(CognateConfig(**{**config, **changes})), tokens, tmp_path / name)

    return written


def spoil_nan(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][1, 2] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return "up_proj.weight"


def spoil_missing(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return "up_proj.weight"


def spoil_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(7, 16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return "up_proj.weight"


def spoil_tokenizer(folder):
    train_tokenizer([GOOD_LINE * 40 + "".join(f"wxyz{n} qrs{n * 7} " for n in range(900))], 900).save_pretrained(folder)
    return "tokenizer"


def spoil_weights_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    return "model.safetensors"


def spoil_config(folder):
    (folder / "config.json").write_text("{")
    return "config"


SPOILT = [spoil_nan, spoil_missing, spoil_shape, spoil_tokenizer, spoil_weights_file, spoil_config]


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda function: function.__name__)
@pytest.mark.parametrize("verb", ["merge", "eval", "quantize", "export", "compress"])
def test_a_checkpoint_that_cannot_be_used(forge, model_folder, home, tmp_path, spoil, verb):
    good, bad = model_folder("good"), model_folder("bad", seed=1)
    said = spoil(bad)
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{number} {GOOD_LINE}" for number in range(50)))
    out = tmp_path / ("out.forge" if verb == "compress" else "out")
    command = {
        "merge": ("merge", good, bad, "--out", out),
        "eval": ("eval", bad, "--data", text, "--home", home),
        "quantize": ("quantize", bad, "--out", out, "--home", home),
        "export": ("export", bad, "--to", "hf", "--out", out, "--home", home),
        "compress": ("compress", bad, "--out", out, "--data", text, "--home", home),
    }[verb]
    before = sorted(path.name for path in tmp_path.iterdir())
    answer = forge(*command)
    assert answer.code == 2
    assert said in answer.sentence()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_parents_of_another_shape_or_vocabulary_are_not_merged(forge, model_folder, tmp_path):
    good, wide = model_folder("good"), model_folder("wide", hidden_size=24)
    answer = forge("merge", good, wide, "--out", tmp_path / "out")
    assert answer.code == 2
    assert "hidden_size" in answer.sentence()
    other = model_folder("other", tokens=train_tokenizer(["zebra quartz " * 50], 290), seed=2)
    answer = forge("merge", good, other, "--out", tmp_path / "out")
    assert answer.code == 2
    assert "tokenizer" in answer.sentence()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "linaer"], "linaer"),
        (["--set", "nosuch=1"], "nosuch"),
        (["--method", "ties"], "base"),
        (["--base", "no-such-folder", "--method", "ties"], "no-such-folder"),
    ],
)
def test_a_merge_that_cannot_be(forge, model_folder, tmp_path, arguments, said):
    answer = forge("merge", model_folder("a"), model_folder("b", seed=1), "--out", tmp_path / "out", *arguments)
    assert answer.code == 2
    assert said in answer.sentence()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["chat", "generate", "eval", "quantize", "compress", "export"])
@pytest.mark.parametrize("with_home", [False, True], ids=["no home", "home"])
def test_an_unknown_model(forge, home, tmp_path, verb, with_home):
    if with_home:
        Home.open(home).close()
    more = {
        "chat": (), "generate": ("--prompt", "a"), "eval": ("--data", tmp_path),
        "quantize": ("--out", tmp_path / "out"), "compress": ("--out", tmp_path / "out.forge"),
        "export": ("--to", "hf", "--out", tmp_path / "out"),
    }[verb]  # fmt: skip
    answer = forge(verb, "no-such-model", *more, "--home", home)
    assert answer.code == 2
    assert "no model 'no-such-model'" in answer.sentence()
    assert home.exists() is with_home
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["show", "lineage"])
def test_an_unknown_digest_or_session(forge, home, verb):
    Home.open(home).close()
    assert forge("models", verb, "0" * 16, "--home", home).code == 2
    for command in (("sessions", "show"), ("sessions", "pin"), ("sessions", "delete"), ("resume",), ("report",)):
        answer = forge(*command, "nobody", "--home", home)
        assert answer.code == 2
        assert "no session 'nobody'" in answer.sentence()
    assert not Path("nobody.html").exists()


# .forge files


@pytest.fixture
def forge_file(forge, model_folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{number} {GOOD_LINE}" for number in range(30)))
    out = tmp_path / "agent.forge"
    answer = forge("compress", model_folder("source"), "--out", out, "--data", text, "--home", tmp_path / "home")
    assert answer.code == 0, answer.err
    return out


def altered(body, damage):
    if damage == "truncated":
        return body[: len(body) // 2]
    if damage == "one byte more":
        return body + b"x"
    if damage == "empty":
        return b""
    if damage == "another kind of file":
        return b"PK\3\4" + body[4:]
    place = {"header": 20, "manifest": 90, "middle": len(body) // 2, "last byte": len(body) - 1}[damage]
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


DAMAGES = ["truncated", "one byte more", "empty", "another kind of file", "header", "manifest", "middle", "last byte"]


def test_a_damaged_agent_is_refused_with_the_name_of_the_part(forge, forge_file, tmp_path):
    body = forge_file.read_bytes()
    assert forge("chat", forge_file, "--max-tokens", "3", stdin="hello\n").code == 0
    for damage in DAMAGES:
        forge_file.write_bytes(altered(body, damage))
        for command in (("chat", forge_file), ("eval", forge_file, "--data", tmp_path / "text.txt")):
            answer = forge(*command, stdin="hello\n")
            assert answer.code == 5, damage
            assert "section" in answer.sentence(), damage
            assert answer.out == ""


def test_a_file_of_another_kind_is_no_model(forge, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"abc")
    answer = forge("chat", tmp_path / "model.bin")
    assert answer.code == 2
    assert "neither a checkpoint folder nor a .forge file" in answer.sentence()


# Homes and disks


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """A file system of a few megabytes, or None where mounting is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("megabytes", [1, 64], ids=["no room at all", "not enough to leave the reserve"])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(
    forge, forge_apart, tiny_run, tmp_path, megabytes
):
    arguments = [*tiny_run(), *TWO, "--session", "full"]
    with small_disk(tmp_path / "disk", megabytes) as disk:
        if disk is None:
            shrink = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))  # noqa: E731
            home = tmp_path / "home"
            answer = forge_apart(*arguments, "--home", home, preexec_fn=shrink)
        else:
            home = disk / "home"
            answer = forge(*arguments, "--home", home)
        assert answer.code == 4, answer.err
        assert "is lost: free some space" in answer.sentence()
        if disk is not None:
            subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
        resumed = forge("resume", "full", "--home", home)
        assert resumed.code == 0, resumed.err
        assert forge("verify", "--home", home, "--json").json()["ok"]


def test_a_home_that_cannot_be_written_is_refused_before_anything_starts(forge_apart, tiny_run, home):
    """As root a read-only mount; as an ordinary user a folder without the right to write."""
    Home.open(home).close()
    before = sorted(path.relative_to(home) for path in home.rglob("*"))
    mounted = os.geteuid() == 0 and all(
        subprocess.run(command, capture_output=True, check=False).returncode == 0
        for command in (["mount", "--bind", home, home], ["mount", "-o", "remount,bind,ro", home])
    )
    target = home if mounted or os.geteuid() else Path("/proc/agent-forge")
    if target == home and not mounted:
        home.chmod(0o555)
    try:
        answer = forge_apart(*tiny_run(), *TWO, "--home", target)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", home], check=True)
        home.chmod(0o755)
    assert answer.code == 2
    assert "choose another --home" in answer.sentence()
    assert sorted(path.relative_to(home) for path in home.rglob("*")) == before


def test_a_file_in_the_place_of_the_home(forge, tiny_run, home):
    home.write_text("mine")
    answer = forge(*tiny_run(), *TWO, "--home", home)
    assert answer.code == 2
    assert "cannot be a home" in answer.sentence()
    assert home.read_text() == "mine"


@pytest.mark.parametrize("verb", ["run", "sessions", "models", "verify", "chat", "resume"])
def test_a_home_of_a_newer_version_is_left_as_it_is(forge, tiny_run, home, verb):
    Home.open(home).close()
    (home / "VERSION").write_text("7\n")
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    command = {
        "run": [*tiny_run(), *TWO], "sessions": ["sessions", "list"], "models": ["models", "list"],
        "verify": ["verify"], "chat": ["chat", "someone"], "resume": ["resume", "someone"],
    }[verb]  # fmt: skip
    answer = forge(*command, "--home", home)
    assert answer.code == 2
    assert "install the newer Agent Forge" in answer.sentence()
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", [("verify",), ("resume", "a"), ("sessions", "show", "a"), ("report", "a")])
def test_reading_makes_no_home(forge, home, command):
    answer = forge(*command, "--home", home)
    assert answer.code == 2
    assert "no home at" in answer.sentence()
    assert not home.exists()


def test_two_runs_on_one_session(forge, forge_process, tiny_run, home):
    arguments = [*tiny_run(cognate__steps=4000, cognate__checkpoint_every=1000), *TWO, "--home", home]
    with forge_process(*arguments, "--session", "one") as first:
        try:
            deadline = time.monotonic() + 120
            while not (home / "sessions" / "one" / "lock.json").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.5)
            before = forge("sessions", "show", "one", "--home", home, "--json").json()
            answer = forge(*arguments, "--session", "one")
            assert answer.code == 4
            assert f"is being run by process {first.pid}" in answer.sentence()
            refused = forge("sessions", "delete", "one", "--home", home)
            assert refused.code == 4
            assert "running" in refused.sentence()
            after = forge("sessions", "show", "one", "--home", home, "--json").json()
            assert (before["status"], len(before["runs"])) == (after["status"], len(after["runs"]))
            assert first.poll() is None
        finally:
            first.kill()
            first.communicate()


def test_a_session_keeps_its_configuration(forge, tiny_run, home):
    assert forge(*tiny_run(cognate__steps=10, handoffs="{}"), *TWO, "--home", home, "--session", "one").code == 0
    answer = forge(*tiny_run(cognate__steps=11, handoffs="{}"), *TWO, "--home", home, "--session", "one")
    assert answer.code == 2
    assert "cognate.steps was 10 and is 11" in answer.sentence()
    assert [(row["name"], row["status"]) for row in sessions(forge, home)] == [("one", "completed")]
    assert json.dumps(forge("verify", "--home", home, "--json").json()["problems"]) == "[]"

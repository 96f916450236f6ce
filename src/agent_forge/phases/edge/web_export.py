"""An agent as a web page: one folder of static files that answers in the browser, with no server behind it.

The folder holds the step graph (`export_onnx`, flavour web), the tokenizer, the tools that need no server, the
page's own modules (``web/``) and onnxruntime-web with its licences. Large files are gzipped; the page checks the
digest of each before it uses it. Before the folder is given out it is run in Node and compared with PyTorch.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel

from agent_forge import __version__
from agent_forge.agent.belongings import EXPERTS
from agent_forge.agent.design import AgentDesign
from agent_forge.agent.knowledge import FORMAT as KNOWLEDGE_FORMAT
from agent_forge.agent.toolbox import MANIFEST as TOOLS
from agent_forge.agent.toolbox import Toolbox
from agent_forge.errors import ConfigError
from agent_forge.model.checkpoint import load_model, read_facts
from agent_forge.model.ternary import ternary_linears
from agent_forge.phases.edge.export_onnx import GRAPH, export_onnx
from agent_forge.phases.edge.onnx_session import read_manifest
from agent_forge.phases.edge.web_dialogue import dialogue
from agent_forge.phases.edge.web_parity import web_parity
from agent_forge.phases.edge.web_runtime import BINARY, LICENCES, MODULE, PACKAGE, VERSION, need_node, runtime_files

PAGE = Path(__file__).with_name("web")
FORMAT = 1
FACTS = "page.json"
OPTIONS: dict[str, Any] = {"maxTokens": 200, "maxCalls": 8, "budget": 128, "think": "auto"}
"""Of an answer: tokens of each turn, calls, tokens of a thought, whether to think; as `agent-forge chat` has them."""
_THINK: dict[str, Any] = {"auto": "auto", "on": True, "off": False}
_IN_A_PAGE = ("think", "thought_budget", "max_calls")
"""The parts of a design that a page carries out; of ``tools`` it knows first and never."""
NOT_IN_A_PAGE = ("python", "retrieve")
"""Kinds of tools that need a process or a folder."""
MODULES = (
    "index.html", "style.css", "chat.js", "worker.js", "load.js", "agent.js", "generation.js", "tokenizer.js",
    "regex.js", "tools.js", "calls.js", "calculator.js", "text.js",
)  # fmt: skip
"""The files of ``web/`` that make the page."""
_NOTICES = "onnxruntime-web-"
_SUMS = 20


def export_web(folder: Path | str, out: Path | str, *, name: str = "", cache: Path | None = None) -> dict[str, Any]:
    """Writes the page of an agent.

    Args:
        folder: a checkpoint folder.
        out: folder to write; must not exist, or be empty.
        name: heading of the page; the folder's name if empty.
        cache: where the archive of the runtime is kept; None = the user's cache.

    Returns:
        Facts: ``folder_bytes``, of it ``agent_bytes`` and ``runtime_bytes``; the figures of `web_parity` (page against
        PyTorch) and ``max_logit_difference`` of `export_onnx`; ``tools_not_in_page`` and ``design_not_in_page``; how to
        ``open`` it.

    Raises:
        ConfigError: ``out`` holds something, or npm, Node or the extra ``edge`` is missing.
        HandoffError: a model, a tokenizer or a chat template that the page has no form for.
    """
    folder, out = Path(folder), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; a page is written into a folder of its own")
    need_node()
    runtime = runtime_files(cache)
    model, tokenizer = load_model(folder)
    design = AgentDesign.load(folder) or AgentDesign()
    toolbox = None if design.tools == "never" else Toolbox.load(folder)
    told = {
        "name": name or folder.resolve().name, "dialogue": dialogue(tokenizer), "options": options_of(design),
        **describe(model, folder, toolbox),
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        graph, page = Path(scratch) / "onnx", Path(scratch) / "page"
        figures = export_onnx(folder, graph, "web")
        page.mkdir()
        runtime_bytes = _write_runtime(page, runtime)
        _write_agent(page, folder, graph, toolbox, told)
        compared = web_parity(model, tokenizer, toolbox, page, questions(toolbox), told["options"])
        folder_bytes = _size(page)
        if out.exists():
            out.rmdir()
        page.rename(out)
    return {
        "folder_bytes": folder_bytes,
        "runtime_bytes": runtime_bytes,
        "agent_bytes": folder_bytes - runtime_bytes,
        **compared,
        "max_logit_difference": figures["max_logit_difference"],
        "tools_not_in_page": ", ".join(_absent(toolbox)) or "none",
        "design_not_in_page": ", ".join(left_out(folder)) or "none",
        "open": f"python3 -m http.server 8000 --bind 127.0.0.1 --directory {out}",
    }


def options_of(design: AgentDesign) -> dict[str, Any]:
    """`OPTIONS` as a design has them."""
    own = {"maxCalls": design.max_calls, "budget": design.thought_budget, "think": _THINK[design.think]}
    return {**OPTIONS, **own}


def left_out(folder: Path) -> list[str]:
    """What belongs to the agent of a checkpoint folder and a page does not carry out: parts of its design, experts."""
    design, plain = (AgentDesign.load(folder) or AgentDesign()).canonical(), AgentDesign()
    names = [each.name for each in fields(AgentDesign) if each.name not in (*_IN_A_PAGE, "tools")]
    found = [name for name in names if getattr(design, name) != getattr(plain, name)]
    found += ["tools after"] if design.tools == "after" else []
    return [*found, *(["experts"] if (folder / EXPERTS).is_file() and "experts" not in found else [])]


def describe(model: PreTrainedModel, folder: Path, toolbox: Toolbox | None) -> dict[str, Any]:
    """What the page says about the agent: a sentence, and rows of a table."""
    layers = ternary_linears(model)
    total = sum(tensor.numel() for tensor in {id(each): each for each in model.parameters()}.values())
    ternary = sum(layer.weight.numel() for layer in layers.values())
    usable = [] if toolbox is None else [tool.name for tool in toolbox.tools.values() if tool.kind not in NOT_IN_A_PAGE]
    words = f"A language model of {_millions(total)} parameters" + (" with ternary weights" if ternary else "")
    facts = read_facts(folder)
    card = [
        ("Parameters", f"{total:,}" + (f", {ternary / total:.0%} of them ternary" if ternary else "")),
        ("Vocabulary", f"{model.config.vocab_size:,} tokens"),
        ("Tools", ", ".join(usable) or "none"),
    ]
    card += [("Not in a page", ", ".join(_absent(toolbox)))] if _absent(toolbox) else []
    if away := left_out(folder):
        card.append(("Left out", f"{', '.join(away)}: in this page it makes one attempt with its own weights"))
    card += [("Persona", str(facts["persona"]))] if facts.get("persona") else []
    card += [
        ("Runs on", f"{PACKAGE} {VERSION} (MIT licence, {_NOTICES}{LICENCES[0]})"),
        ("Made by", f"Agent Forge {__version__}"),
    ]
    return {"summary": words + (f" and tools: {', '.join(usable)}." if usable else "."), "card": card}


def examples(toolbox: Toolbox | None) -> list[str]:
    """Questions to begin with, for the tools that the agent has."""
    if toolbox is None:
        return []
    kinds = {tool.kind for tool in toolbox.tools.values()}
    found = ["What is 17 + 25?"] if "calculator" in kinds else []
    records = {} if toolbox.knowledge is None else toolbox.knowledge.records
    someone = next((subject for subject, record in records.items() if "town" in record), None)
    if "lookup" in kinds and someone is not None:
        found.append(f"Find out where {someone} lives.")
    if "clock" in kinds:
        found.append("It is 14 o'clock. What will the clock show 5 hours later?")
    return found


def questions(toolbox: Toolbox | None) -> list[str]:
    """What page and model are asked for the comparison: the examples, sums, and some text that no tool is for."""
    sums = [f"What is {17 + 13 * number} plus {5 + 7 * number}?" for number in range(_SUMS)]
    return [*examples(toolbox), "Who are you?", "Erzähl mir etwas: 12 Äpfel, 你好, 🙂 <think> <|end|>", *sums]


def _write_runtime(page: Path, runtime: Mapping[str, bytes]) -> int:
    """The runtime and its licences; gives their bytes."""
    _write(page / MODULE, runtime[MODULE])
    _write(page / f"{BINARY}.gz", _packed(runtime[BINARY]))
    for name in LICENCES:
        _write(page / f"{_NOTICES}{name}", runtime[name])
    return _size(page)


def _write_agent(page: Path, folder: Path, graph: Path, toolbox: Toolbox | None, told: Mapping[str, Any]) -> None:
    """The page's modules, the model, the tokenizer, and ``page.json`` about them all."""
    for name in MODULES:
        shutil.copyfile(PAGE / name, page / name)
    _write(page / f"{GRAPH}.gz", _packed((graph / GRAPH).read_bytes()))
    _write(page / "tokenizer.json.gz", _packed((folder / "tokenizer.json").read_bytes()))
    names = {"model": f"{GRAPH}.gz", "tokenizer": "tokenizer.json.gz"}
    binary = f"{BINARY}.gz"
    manifest = read_manifest(graph)
    facts = {
        "format": FORMAT,
        **told,
        "dialogue": {**told["dialogue"], "stop": manifest["tokens"]["eos"]},
        "graph": {key: manifest[key] for key in ("states", "window", "global_every")},
        "runtime": {"module": MODULE, "binary": binary},
        "examples": examples(toolbox),
        **_tools(toolbox),
        **names,
        "loaded": [_row(page / name) for name in (binary, *names.values())],
    }
    _write_facts(page, facts)


def _write_facts(page: Path, facts: Mapping[str, Any]) -> None:
    """``page.json``, which says how large the folder is, itself included."""
    others, model = _size(page), (page / f"{GRAPH}.gz").stat().st_size
    size, text = -1, ""
    while size != others + len(text.encode()):
        size = others + len(text.encode())
        row = ("Size", f"{size:,} bytes, of them {model:,} the model")
        text = json.dumps({**facts, "card": [*facts["card"], row]}, ensure_ascii=False) + "\n"
    _write(page / FACTS, text.encode())


def _tools(toolbox: Toolbox | None) -> dict[str, Any]:
    """The manifest, and the index as pairs: JavaScript's objects would not keep its order."""
    if toolbox is None:
        return {"tools": None, "knowledge": None}
    files = toolbox.files()
    if toolbox.knowledge is None:
        return {"tools": json.loads(files[TOOLS]), "knowledge": None}
    records = [[subject, list(record.items())] for subject, record in toolbox.knowledge.records.items()]
    return {"tools": json.loads(files[TOOLS]), "knowledge": {"format": KNOWLEDGE_FORMAT, "records": records}}


def _absent(toolbox: Toolbox | None) -> list[str]:
    return [] if toolbox is None else [tool.name for tool in toolbox.tools.values() if tool.kind in NOT_IN_A_PAGE]


def _row(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "gzip": True}


def _packed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)  # equal content, equal file


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _millions(count: int) -> str:
    return f"{count:,}" if count < 100_000 else f"{count / 1e6:.1f} million"

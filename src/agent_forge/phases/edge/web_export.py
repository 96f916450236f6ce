"""An agent as a web page: one folder of static files that answers in the browser, with no server behind it.

The folder holds the step graph (`export_onnx`, flavour web), the tokenizer, the tools that need no server, the
page's own modules (``web/``) and onnxruntime-web with its licences. Large files are gzipped; the page checks the
digest of each before it uses it. Before the folder is given out it is run in Node and compared with PyTorch.

The page carries the agent's design out as `agent-forge chat` does: attempts, draws, votes, checks, routes and experts.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel

from agent_forge import __version__
from agent_forge.agent.design import AgentDesign
from agent_forge.agent.equipment import asked_for, needed, with_experts
from agent_forge.agent.knowledge import FORMAT as KNOWLEDGE_FORMAT
from agent_forge.agent.routes import open_first_pass
from agent_forge.agent.toolbox import MANIFEST as TOOLS
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.practice import worked_thoughts
from agent_forge.errors import ConfigError
from agent_forge.model.checkpoint import load_model, read_facts
from agent_forge.model.expert_vectors import load_experts
from agent_forge.model.ternary import ternary_linears
from agent_forge.phases.edge.export_onnx import GRAPH, export_onnx
from agent_forge.phases.edge.onnx_session import read_manifest
from agent_forge.phases.edge.web_design import (
    NOT_IN_A_PAGE,
    left_out,
    page_design,
    rows_of,
    think_of,
    told,
    tools_not_in_page,
)
from agent_forge.phases.edge.web_dialogue import dialogue
from agent_forge.phases.edge.web_parity import Asked, web_parity
from agent_forge.phases.edge.web_runtime import BINARY, LICENCES, MODULE, PACKAGE, VERSION, need_node, runtime_files

PAGE = Path(__file__).with_name("web")
FORMAT = 2
FACTS = "page.json"
DESIGN = "design.json.gz"
MAX_TOKENS = 200
"""Of the words of each turn, as `agent-forge chat` has them."""
MODULES = (
    "index.html", "style.css", "chat.js", "worker.js", "load.js", "design.js", "routes.js", "checks.js", "agent.js",
    "equations.js", "generation.js", "random.js", "graph.js", "tokenizer.js", "regex.js", "tools.js", "calls.js",
    "calculator.js", "text.js",
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
        PyTorch) and ``max_logit_difference`` of `export_onnx`; ``design``, in a line; ``tools_not_in_page`` and
        ``design_not_in_page``; how to ``open`` it.

    Raises:
        ConfigError: ``out`` holds something, or npm, Node or the extra ``edge`` is missing.
        HandoffError: a model, a tokenizer, a chat template or a design that the page has no form for, or a design that
            lacks an expert or the classifier of questions.
    """
    folder, out = Path(folder), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; a page is written into a folder of its own")
    need_node()
    runtime = runtime_files(cache)
    model, tokenizer = load_model(folder)
    design = AgentDesign.load(folder) or AgentDesign()
    toolbox = None if all(row.tools == "never" for row in rows_of(design)) else Toolbox.load(folder)
    asked = Asked(
        model, tokenizer, toolbox, design, first_pass=open_first_pass(folder, model, tokenizer, design),
        equip=with_experts(needed(*load_experts(folder, model), design)) if asked_for(design) else None,
        max_tokens=MAX_TOKENS,
    )  # fmt: skip
    facts = {
        "name": name or folder.resolve().name, "maxTokens": MAX_TOKENS, "think": think_of(design),
        "dialogue": {**dialogue(tokenizer), "positions": getattr(model.config, "n_positions", None)},
        **describe(model, folder, design, toolbox),
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        graph, page = Path(scratch) / "onnx", Path(scratch) / "page"
        figures = export_onnx(folder, graph, "web")
        page.mkdir()
        runtime_bytes = _write_runtime(page, runtime)
        _write_agent(page, folder, graph, design, toolbox, facts)
        compared = web_parity(asked, page, questions(toolbox, read_facts(folder).get("practice")))
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
        "tools_not_in_page": ", ".join(tools_not_in_page(toolbox)) or "none",
        "design": told(design) or "one attempt",
        "design_not_in_page": ", ".join(left_out(design)) or "none",
        "open": f"python3 -m http.server 8000 --bind 127.0.0.1 --directory {out}",
    }


def describe(model: PreTrainedModel, folder: Path, design: AgentDesign, toolbox: Toolbox | None) -> dict[str, Any]:
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
    card += [("Design", told(design))] if told(design) else []
    absent = [*tools_not_in_page(toolbox), *left_out(design)]
    card += [("Not in a page", ", ".join(absent))] if absent else []
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


def questions(toolbox: Toolbox | None, practice: Mapping[str, Any] | None) -> list[str]:
    """What page and model are asked for the comparison: the examples, some text that no tool is for, one question of
    each way to think that the model practised, sums."""
    sums = [f"What is {17 + 13 * number} plus {5 + 7 * number}?" for number in range(_SUMS)]
    found = [*examples(toolbox), "Who are you?", "Erzähl mir etwas: 12 Äpfel, 你好, 🙂 <think> <|end|>"]
    if practice is not None:
        ways = [worked_thoughts(practice["seed"], "test", [3], [strategy]) for strategy in practice["strategies"]]
        found += [next(items).tasks[0].prompt for items in ways]
    return [*found, *sums]


def _write_runtime(page: Path, runtime: Mapping[str, bytes]) -> int:
    """The runtime and its licences; gives their bytes."""
    _write(page / MODULE, runtime[MODULE])
    _write(page / f"{BINARY}.gz", _packed(runtime[BINARY]))
    for name in LICENCES:
        _write(page / f"{_NOTICES}{name}", runtime[name])
    return _size(page)


def _write_agent(
    page: Path, folder: Path, graph: Path, design: AgentDesign, toolbox: Toolbox | None, facts: Mapping[str, Any]
) -> None:
    """The page's modules, the model, the tokenizer, the design, and ``page.json`` about them all."""
    manifest = read_manifest(graph)
    for name in MODULES:
        shutil.copyfile(PAGE / name, page / name)
    _write(page / f"{GRAPH}.gz", _packed((graph / GRAPH).read_bytes()))
    _write(page / "tokenizer.json.gz", _packed((folder / "tokenizer.json").read_bytes()))
    _write(page / DESIGN, _packed(json.dumps(page_design(design, manifest)).encode()))
    names = {"model": f"{GRAPH}.gz", "tokenizer": "tokenizer.json.gz", "design": DESIGN}
    binary = f"{BINARY}.gz"
    ways_in = manifest.get("experts") and {key: manifest["experts"][key] for key in ("input", "shape")}
    told = {
        "format": FORMAT,
        **facts,
        "dialogue": {**facts["dialogue"], "stop": manifest["tokens"]["eos"]},
        "graph": {key: manifest[key] for key in ("states", "window", "global_every")}
        | {"experts": ways_in, "features": manifest.get("features")},
        "runtime": {"module": MODULE, "binary": binary},
        "examples": examples(toolbox),
        **_tools(toolbox),
        **names,
        "loaded": [_row(page / name) for name in (binary, *names.values())],
    }
    _write_facts(page, told)


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

"""`export_onnx`: a checkpoint as an ONNX graph for the processor or the browser, with its parity measured."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.belongings import DESIGN, TOOL_FILES
from agent_forge.contract import END_THINK, THINK
from agent_forge.errors import ConfigError, HandoffError
from agent_forge.model.checkpoint import load_model
from agent_forge.model.expert_vectors import Expert, applied
from agent_forge.model.modeling import CognateForCausalLM
from agent_forge.model.ternary import PER_ROW, PER_TENSOR, TernaryLinear, ternary_linears
from agent_forge.phases.edge.onnx_agent import FEATURES, Brought, as_input, brought
from agent_forge.phases.edge.onnx_experts import ExpertStep
from agent_forge.phases.edge.onnx_parity import TOKENS, parity
from agent_forge.phases.edge.onnx_session import FORMAT, MANIFEST
from agent_forge.phases.edge.onnx_weights import Table, float_logits

if TYPE_CHECKING:
    from agent_forge.phases.edge.onnx_graph import CognateStep
    from agent_forge.phases.edge.onnx_transformers import TransformersStep

Flavour: TypeAlias = Literal["cpu", "web"]
FLAVOURS = ("cpu", "web")
GRAPH = "model.onnx"
_FOLDED = 512
"""Elements of a constant that the exporter works out; larger ones are left to the runtime, which has the memory."""
CARRIED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", *TOOL_FILES, DESIGN,
)  # fmt: skip
"""Files beside the weights that a runner may want; experts and classifier go into the graph and ``onnx.json``."""


def export_onnx(
    folder: Path | str, out: Path | str, flavour: Flavour = "cpu", *, tokens: int = TOKENS
) -> dict[str, Any]:
    """Writes the step graph of a checkpoint, ``onnx.json`` and the files that go with them, and measures parity.

    Args:
        folder: a checkpoint folder; ternary layers where ``ternary.json`` says so.
        out: folder to write; made if missing, must be empty.
        flavour: "cpu" (products of integers) or "web" (fp32 products, unpacked when the graph is loaded).
        tokens: over which graph and model are compared.

    Returns:
        Facts: flavour, file, bytes of the graph and of the folder, and those of `onnx_parity.parity`; for a design with
        experts ``experts_compared_tokens``, ``experts_equal_tokens`` and ``experts_max_logit_difference`` as well.

    Raises:
        ConfigError: an unknown flavour, an output folder that holds something, or the extra is not installed.
        HandoffError: the architecture or the design has no form as a graph; one sentence says why.
    """
    folder, out = Path(folder), Path(out)
    if flavour not in FLAVOURS:
        raise ConfigError(f"unknown ONNX flavour {flavour!r}; the flavours are {', '.join(FLAVOURS)}")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; an export is written into a folder of its own")
    _need_extra()
    model, tokenizer = load_model(folder)
    needs = brought(folder, model)
    out.mkdir(parents=True, exist_ok=True)
    manifest = write_graph(model, out / GRAPH, flavour, needs)
    manifest["tokens"] = _special_tokens(model, tokenizer)
    (out / MANIFEST).write_text(_a_line_each(manifest), encoding="utf-8")
    for name in CARRIED:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    sizes = {"bytes": (out / GRAPH).stat().st_size, "folder_bytes": sum(path.stat().st_size for path in out.iterdir())}
    compared = {
        **parity(model, tokenizer, out, tokens),
        **_parity_with_experts(model, tokenizer, out, needs.mixtures, manifest, tokens),
    }
    return {"flavour": flavour, "file": GRAPH, **sizes, **compared}


def _parity_with_experts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    mixtures: Sequence[Expert],
    manifest: Mapping[str, Any],
    tokens: int,
) -> dict[str, Any]:
    """The same comparison while graph and model compute with the mixtures of experts that the design asks for: as many
    tokens in all, each mixture its share.
    """
    found = []
    tokens = -(-tokens // max(1, len(mixtures)))
    for mixture in mixtures:
        with applied(model, mixture):
            found.append(parity(model, tokenizer, out, tokens, experts=as_input(mixture, manifest)))
    if not found:
        return {}
    return {
        "experts_compared_tokens": sum(each["compared_tokens"] for each in found),
        "experts_equal_tokens": sum(each["equal_tokens"] for each in found),
        "experts_max_logit_difference": max(each["max_logit_difference"] for each in found),
    }


def unrounded_parity(folder: Path | str, flavour: Flavour = "cpu", *, tokens: int = TOKENS) -> dict[str, Any]:
    """Parity of the graph of a model that rounds its inputs to int8, neither side rounding them.

    With the rounding, differences in the seventh digit become whole steps (`onnx_parity`), in torch against torch as
    well; without it, what is left is the graph: weights, scales, layers and states.

    Args:
        folder: a checkpoint folder.
        flavour: as for `export_onnx`; its products of integers need whole inputs, so that it takes those of "web".
        tokens: over which graph and model are compared.

    Returns:
        ``unrounded_max_logit_difference`` and ``unrounded_equal_tokens``; nothing if the model rounds no inputs.

    Raises:
        ConfigError, HandoffError: as `export_onnx`.
    """
    _need_extra()
    model, tokenizer = load_model(Path(folder))
    layers = [layer for layer in ternary_linears(model).values() if layer.activation_bits]
    if not layers:
        return {}
    for layer in layers:
        layer.activation_bits = 0
    with TemporaryDirectory() as scratch:
        manifest = write_graph(model, Path(scratch) / GRAPH, flavour)
        manifest["tokens"] = _special_tokens(model, tokenizer)
        (Path(scratch) / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        found = parity(model, tokenizer, Path(scratch), tokens)
    return {f"unrounded_{name}": found[name] for name in ("max_logit_difference", "equal_tokens")}


def write_graph(model: PreTrainedModel, path: Path, flavour: Flavour, needs: Brought | None = None) -> dict[str, Any]:
    """Writes the graph of a model; gives what ``onnx.json`` says about it.

    Args:
        model: in evaluation mode.
        path: of the graph.
        flavour: "cpu" or "web".
        needs: what the design of its agent asks of the graph; None = nothing.

    Raises:
        HandoffError: the architecture has no form as a graph.
    """
    from agent_forge.phases.edge.onnx_layers import OPSET

    needs = needs or Brought()
    try:
        step, whole = _step(model, flavour, needs)
        states = step.states()
        extra, given = (["experts"], [torch.zeros(1, whole.width)]) if isinstance(whole, ExpertStep) else ([], [])
        vocabulary, width = model.get_output_embeddings().weight.shape
        told = needs.to_manifest(whole, int(width), one_by_one=step.one_by_one)
    except ValueError as error:
        raise HandoffError(f"this model cannot be exported to ONNX: {error}") from error
    growing = [{state.shape.index("past"): Dim.DYNAMIC} if "past" in state.shape else {} for state in states]
    examples = (torch.zeros(1, 4, dtype=torch.long), *given, *(state.example(3) for state in states))
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            whole,
            examples,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={"input_ids": {1: Dim.DYNAMIC}, **{name: {} for name in extra}, "past": tuple(growing)},
            input_names=["input_ids", *extra, *(state.input for state in states)],
            output_names=["logits", *([FEATURES] if FEATURES in told else []), *(state.output for state in states)],
            optimize=False,
            verbose=False,
        )
    assert program is not None
    path.write_bytes(_slim(program.model_proto))
    return {
        "format": FORMAT,
        "flavour": flavour,
        "file": path.name,
        "architecture": model.config.model_type,
        "opset": OPSET,
        "vocab_size": int(vocabulary),
        "inputs": [{"name": "input_ids", "dtype": "int64", "shape": [1, "tokens"]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [1, int(vocabulary)]}],
        "states": [
            {"input": state.input, "output": state.output, "dtype": state.dtype, "shape": list(state.shape)}
            for state in states
        ],
        **step.sight(),
        **told,
    }


def _step(model: PreTrainedModel, flavour: Flavour, needs: Brought) -> tuple[CognateStep | TransformersStep, nn.Module]:
    """The step of a model; and the same with the input of experts, where the design has some."""
    from agent_forge.phases.edge.onnx_graph import CognateStep
    from agent_forge.phases.edge.onnx_transformers import TransformersStep

    def made(layers: Sequence[nn.Linear]) -> nn.Module:
        return needs.adapted(projection(layers, flavour), layers)

    step: CognateStep | TransformersStep
    features = needs.dispatcher is not None
    if isinstance(model, CognateForCausalLM):
        step = CognateStep(model, made, lambda x, table: _logits(x, table, flavour), features=features)
    else:
        step = TransformersStep(model, made, features=features, adapted=needs.factors)
    step.eval()
    return step, ExpertStep(step).eval() if needs.experts else step


def _a_line_each(manifest: Mapping[str, Any]) -> str:
    """JSON with a line for each key: to be read, though some hold thousands of numbers."""
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in manifest.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _slim(model: Any) -> bytes:
    """The graph without what nobody runs: traces of the exporter, and constants that were unpacked too early."""
    from onnxscript import optimizer

    slim = optimizer.optimize(model, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
    for node in slim.graph.node:
        del node.metadata_props[:]
    del slim.graph.value_info[:]
    content: bytes = slim.SerializeToString()
    return content


def projection(layers: Sequence[nn.Linear], flavour: Flavour) -> nn.Module:
    """One product of layers that have the same input, in the form of the flavour."""
    from agent_forge.phases.edge.onnx_cpu import IntegerLinear
    from agent_forge.phases.edge.onnx_web import UnpackedLinear
    from agent_forge.phases.edge.onnx_weights import Beside, PlainLinear

    kinds = {(_has_codes(layer), getattr(layer, "activation_bits", 0)) for layer in layers}
    if len(kinds) > 1:
        return Beside([projection([layer], flavour) for layer in layers])
    coded, bits = kinds.pop()
    if not coded:
        return PlainLinear(layers)
    coded_layers = [layer for layer in layers if isinstance(layer, TernaryLinear)]
    return IntegerLinear(coded_layers) if flavour == "cpu" and bits == 8 else UnpackedLinear(coded_layers)


def _logits(x: Tensor, table: Table, flavour: Flavour) -> Tensor:
    """The product of features with the rows of a table, in the form of the flavour."""
    from agent_forge.phases.edge.onnx_cpu import integer_logits

    return integer_logits(x, table) if flavour == "cpu" and table.form == "int8" else float_logits(x, table)


def _has_codes(layer: nn.Linear) -> bool:
    """Whether a layer is whole numbers times a scale per output."""
    if not isinstance(layer, TernaryLinear) or not layer.frozen or layer.bias is not None:
        return False
    return layer.layout.group_size in (PER_TENSOR, PER_ROW)


def _special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The tokens that a runner must know; null where the tokenizer has none."""
    end = tokenizer.eos_token_id
    marks = tokenizer.get_vocab()
    return {
        "bos": tokenizer.bos_token_id,
        "eos": [] if end is None else [end] if isinstance(end, int) else list(end),
        "pad": tokenizer.pad_token_id,
        "think": marks.get(THINK),
        "end_think": marks.get(END_THINK),
    }


def _need_extra() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"ONNX needs the extra edge: pip install agent-forge[edge] ({error})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter speaks of operators of other packages and of its own deprecations; none of it is about the model."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)

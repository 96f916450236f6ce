"""Exports of a ternary checkpoint to what other programs read.

- ``hf``: dequantized weights, loaded by a plain ``AutoModelForCausalLM`` of the architecture.
- ``hf-bitnet``: 2-bit codes and ``quantization_config`` of ``transformers``' own BitNet layers (Llama-like only).
- ``gguf``: a file for llama.cpp with TQ1_0 or TQ2_0 blocks (Llama-like only; see `export_gguf`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from agent_forge.errors import ConfigError, HandoffError
from agent_forge.model.checkpoint import WEIGHTS, load_model
from agent_forge.model.packed_file import PACKED
from agent_forge.model.ternary import PER_TENSOR, SIDECAR, TERNARY, Layout, codes_of, read_sidecar, ternary_linears
from agent_forge.phases.bitnet.export_gguf import export_gguf
from agent_forge.phases.bitnet.pack_transformers import (
    LINEAR_CLASSES,
    pack_transformers,
    unpack_transformers,
    weight_scale,
)

TARGETS = ("hf", "hf-bitnet", "gguf")
_OURS = "cognate"
_COMPARED = 64


def export_folder(folder: Path | str, out: Path | str, *, to: str, **options: Any) -> dict[str, Any]:
    """Writes a ternary checkpoint in the form ``to``.

    Args:
        folder: a checkpoint folder with ``ternary.json``.
        out: folder to write; made if missing, must be empty.
        to: "hf", "hf-bitnet" or "gguf".
        options: ``dtype`` of hf, ``linear_class`` of hf-bitnet, ``kind`` of gguf.

    Returns:
        Facts about what was written: file, bytes, what could not be kept.

    Raises:
        ConfigError: an unknown target, or an output folder that holds something.
        HandoffError: the model cannot be written in that form; one sentence says why and what to do.
    """
    folder, out = Path(folder), Path(out)
    if to not in TARGETS:
        raise ConfigError(f"unknown export target {to!r}; the targets are {', '.join(TARGETS)}")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; an export is written into a folder of its own")
    writers: dict[str, Callable[..., dict[str, Any]]] = {
        "hf": export_hf,
        "hf-bitnet": export_hf_bitnet,
        "gguf": export_gguf,
    }
    return writers[to](folder, out, **options)


def export_hf(folder: Path, out: Path, *, dtype: str = "float32") -> dict[str, Any]:
    """Dequantized weights. fp32 and fp16 hold every scale exactly, bfloat16 does not.

    Raises:
        ConfigError: another ``dtype``.
    """
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ConfigError(f"dtype must be float32, float16 or bfloat16, got {dtype!r}")
    wanted: torch.dtype = getattr(torch, dtype)
    _copy_rest(folder, out)
    state = {
        name: tensor.to(wanted) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(folder / WEIGHTS).items()
    }
    save_file(state, out / WEIGHTS, metadata={"format": "pt"})
    _change_config(out, {"dtype": dtype})
    return {"file": WEIGHTS, "bytes": (out / WEIGHTS).stat().st_size, "dtype": dtype, **_logit_differences(folder, out)}


@torch.inference_mode()
def _logit_differences(folder: Path, out: Path) -> dict[str, float]:
    """How far the logits of the exported folder are from the checkpoint's, over some tokens of the vocabulary.

    ``max_logit_difference`` is about the weights: ternary layers take their inputs as they are in both. What it costs
    that the plain layers of others do not round their inputs to int8 is ``without_rounding_logit_difference``.
    """
    theirs, _ = load_model(out)
    ours, _ = load_model(folder)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, int(theirs.config.vocab_size), (1, _COMPARED), generator=generator)
    found: Tensor = theirs(tokens).logits
    rounding: Tensor = ours(tokens).logits
    rounds = False
    for layer in ternary_linears(ours).values():
        rounds = rounds or layer.activation_bits > 0
        layer.activation_bits = 0
    differences = {"max_logit_difference": float((ours(tokens).logits - found).abs().max())}
    if rounds:
        differences["without_rounding_logit_difference"] = float((rounding - found).abs().max())
    return differences


def export_hf_bitnet(folder: Path, out: Path, *, linear_class: str = "bitlinear") -> dict[str, Any]:
    """The folder that a stock ``transformers`` loads with its own BitNet layers (it needs ``accelerate`` for that).

    Args:
        folder: a checkpoint folder whose ternary layers have one scale per tensor and int8 activations.
        out: folder to write.
        linear_class: "bitlinear" (``weight_scale`` = 1/γ) or "autobitlinear" (γ).

    Raises:
        HandoffError: an architecture, group size or layer that this layout cannot hold.
        ConfigError: an unknown class.
    """
    if linear_class not in LINEAR_CLASSES:
        raise ConfigError(f"linear_class must be one of {', '.join(LINEAR_CLASSES)}, got {linear_class!r}")
    layouts = _ternary_layouts(folder)
    state = load_file(folder / WEIGHTS)
    codes: dict[str, Tensor] = {}
    for name, layout in layouts.items():
        try:
            packed, scale = codes_of(state[name], layout)
            codes[name] = packed
            state[name] = pack_transformers(packed)
            state[name.removesuffix("weight") + "weight_scale"] = weight_scale(scale, linear_class)
        except ValueError as error:
            raise HandoffError(f"{name} cannot be exported to hf-bitnet: {error}") from error
    _copy_rest(folder, out)
    save_file(state, out / WEIGHTS, metadata={"format": "pt"})
    _change_config(out, {"quantization_config": _quantization_config(state, layouts, linear_class)})
    largest = _check(out, codes, layouts, linear_class, load_file(folder / WEIGHTS))
    size = (out / WEIGHTS).stat().st_size
    return {"file": WEIGHTS, "bytes": size, "linear_class": linear_class, "max_weight_difference": largest}


def _ternary_layouts(folder: Path) -> dict[str, Layout]:
    """The ternary layers, after refusing what the BitNet layout of transformers has no place for."""
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    sidecar = read_sidecar(folder)
    if sidecar is None:
        raise HandoffError(f"{folder} is not ternary; run `agent-forge quantize` on it first")
    if model_type == _OURS:
        raise HandoffError(
            "hf-bitnet is for architectures that transformers itself knows, and Cognate is not one of them: a stock "
            "transformers could not load the folder; use --to hf, or the packed.safetensors of the checkpoint"
        )
    if sidecar["activation_bits"] != 8:
        raise HandoffError("the BitNet layers of transformers always round activations to int8; quantize with 8 bits")
    grouped = [name for name, layout in sidecar["tensors"].items() if layout.group_size != PER_TENSOR]
    if grouped:
        raise HandoffError(
            f"the BitNet layout of transformers holds one scale per tensor, but {len(grouped)} tensors have more "
            f"({grouped[0]} is the first); quantize with group size 0 to export to hf-bitnet"
        )
    return {name: layout for name, layout in sidecar["tensors"].items() if layout.levels == TERNARY}


def _quantization_config(state: dict[str, Tensor], layouts: dict[str, Layout], linear_class: str) -> dict[str, Any]:
    """Layers that stay as they are must be named, or transformers would look for codes in them."""
    converted = {name.removesuffix(".weight") for name in layouts}
    paths = {name.removesuffix(".weight") for name, tensor in state.items() if name.endswith(".weight")}
    return {
        "quant_method": "bitnet",
        "linear_class": linear_class,
        "quantization_mode": "offline",
        "modules_to_not_convert": sorted((paths | {"lm_head"}) - converted),
    }


def _check(
    out: Path, codes: dict[str, Tensor], layouts: dict[str, Layout], linear_class: str, before: Mapping[str, Tensor]
) -> float:
    """Reads the file back under its own convention (the wrong one would be off by the square of γ); gives the largest
    difference to the weights as they were.
    """
    state, worst = load_file(out / WEIGHTS), 0.0
    for name in layouts:
        stored = state[name.removesuffix("weight") + "weight_scale"]
        gamma = 1 / stored if linear_class == "bitlinear" else stored
        largest = float(codes[name].abs().max())
        if not torch.equal(unpack_transformers(state[name]), codes[name]) or not largest == 1 or not gamma > 0:
            raise HandoffError(f"{out / WEIGHTS}: {name} does not read back as it was written")
        worst = max(worst, float((codes[name].float() * gamma - before[name]).abs().max()))
    return worst


def _copy_rest(folder: Path, out: Path) -> None:
    """Everything but weights and our own description of them."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in (WEIGHTS, PACKED, SIDECAR):
            shutil.copyfile(path, out / path.name)


def _change_config(out: Path, changes: dict[str, Any]) -> None:
    path = out / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

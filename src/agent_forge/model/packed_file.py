"""``packed.safetensors``: a whole ternary checkpoint in its small form.

Every tensor is stored in the smallest of these forms that gives it back bit for bit:

=========  =========================================================================================
form       tensors in the file
=========  =========================================================================================
ternary    ``NAME.codes`` base-3 bytes, ``NAME.scale`` fp16 [out or 1, groups]
bits2/4    ``NAME.codes`` packed codes, ``NAME.scale``: layers that were kept higher
int8       ``NAME.codes`` int8 [rows, d], ``NAME.scale`` fp16 [rows, 1], ``NAME.special`` rows as they were:
           embeddings, head, and other large matrices that are not ternary (gates)
fp16_rows  ``NAME.codes`` fp16 [rows, d], ``NAME.special`` rows as they were
plain      ``NAME``, in fp16 where that loses nothing
=========  =========================================================================================

Writing never changes a value; `round_for_packing` does that beforehand, so that the model that is measured is the
model that is packed. The header's one metadata entry (several would be written in no fixed order) is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from agent_forge.errors import ArtifactCorrupt
from agent_forge.model.pack_base3 import pack_base3, pack_bits, unpack_base3, unpack_bits
from agent_forge.model.ternary import (
    EIGHT_BITS,
    FOUR_BITS,
    PER_ROW,
    TERNARY,
    TWO_BITS,
    Layout,
    codes_of,
    dequantize,
    quantize,
    ternary_linears,
)

PACKED = "packed.safetensors"
_ROWS = Layout(PER_ROW, EIGHT_BITS)
# Smaller tensors (norms, biases) stay as they are: there is nothing to gain.
_SMALL = 1024
# A row of fewer columns would spend too much of its bytes on its scale.
_FEWEST_COLUMNS = 64


@torch.no_grad()
def round_for_packing(
    model: nn.Module, tables: Mapping[str, Tensor], special_rows: Sequence[int], *, embedding_bits: int = 8
) -> None:
    """Rounds in place what is not ternary: matrices to int8 per row or fp16, other large tensors to fp16.

    Args:
        model: with frozen ternary layers.
        tables: its embedding and head parameters by name.
        special_rows: rows of the tables that are not touched.
        embedding_bits: 8, 16 or 32 for tables and other matrices that are not ternary.

    Raises:
        ValueError: other ``embedding_bits``.
    """
    if embedding_bits not in (8, 16, 32):
        raise ValueError(f"embedding_bits must be 8, 16 or 32, got {embedding_bits}")
    frozen = ternary_linears(model)
    for name, parameter in model.named_parameters():
        if name in frozen or not parameter.is_floating_point():
            continue
        if name in tables:
            before = parameter[list(special_rows)].clone()
            _round_table(parameter, embedding_bits)
            parameter[list(special_rows)] = before
        elif parameter.numel() > _SMALL:
            _round_table(parameter, embedding_bits if _wide(parameter) else max(16, embedding_bits))


def write_packed(model: nn.Module, path: Path, tables: Mapping[str, Tensor], special_rows: Sequence[int]) -> int:
    """Writes ``model`` to ``path`` and returns the size in bytes; tied tensors are stored once."""
    frozen = ternary_linears(model)
    activation_bits = {layer.activation_bits for layer in frozen.values()} or {0}
    stored: dict[str, Tensor] = {}
    entries: dict[str, dict[str, Any]] = {}
    seen: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            entries[name] = {"form": "same", "as": seen[id(tensor)]}
            continue
        seen[id(tensor)] = name
        value = tensor.detach().cpu()
        if name in frozen:
            entries[name] = _store_layer(stored, name, value, frozen[name].layout)
        elif name in tables or _wide(value):
            entries[name] = _store_table(stored, name, value, special_rows if name in tables else ())
        else:
            entries[name] = _store_plain(stored, name, value)
    header = {"format_version": 1, "activation_bits": max(activation_bits), "tensors": entries}
    save_file(stored, path, metadata={"packed": json.dumps(header, sort_keys=True)})
    return path.stat().st_size


def read_packed(path: Path) -> dict[str, Tensor]:
    """The state dict that was packed, every tensor dequantized.

    Raises:
        ArtifactCorrupt: the file is no packed checkpoint, or its parts do not fit together.
    """
    with safe_open(path, framework="pt") as file:
        header = (file.metadata() or {}).get("packed")
        if header is None:
            raise ArtifactCorrupt(f"{path} holds no packed checkpoint")
        entries = json.loads(header)["tensors"]
        try:
            state = {name: _load(file, name, entry) for name, entry in entries.items() if entry["form"] != "same"}
        except (ValueError, KeyError) as error:
            raise ArtifactCorrupt(f"{path}: {error}") from error
    for name, entry in entries.items():
        if entry["form"] == "same":
            state[name] = state[entry["as"]]
    return state


def _round_table(table: Tensor, bits: int) -> None:
    if bits == 16:
        _round_half(table)
    if bits == 8:
        codes, scale = quantize(table, _ROWS)
        # Rows too small for an fp16 scale would vanish; such a table keeps its 16 bits.
        vanished = bool(((scale == 0) & (table.abs().amax(-1, keepdim=True) > 0)).any())
        _round_half(table) if vanished else table.copy_(dequantize(codes, scale, _ROWS))


def _wide(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and tensor.numel() > _SMALL and tensor.shape[1] >= _FEWEST_COLUMNS


def _round_half(tensor: Tensor) -> None:
    half = tensor.half().to(tensor.dtype)
    if bool(torch.isfinite(half).all()):
        tensor.copy_(half)


def _store_layer(stored: dict[str, Tensor], name: str, value: Tensor, layout: Layout) -> dict[str, Any]:
    codes, scale = codes_of(value, layout)
    stored[f"{name}.scale"] = scale.half()
    if layout.levels == TERNARY:
        form, stored[f"{name}.codes"] = "ternary", pack_base3(codes)
    else:
        bits = {TWO_BITS: 2, FOUR_BITS: 4}[layout.levels]
        form, stored[f"{name}.codes"] = f"bits{bits}", pack_bits(codes, bits)
    return {"form": form, "group_size": layout.group_size, "levels": layout.levels, "shape": list(value.shape)}


def _store_table(stored: dict[str, Tensor], name: str, value: Tensor, special: Sequence[int]) -> dict[str, Any]:
    rows = list(special)
    ordinary = value.float().clone()
    ordinary[rows] = 0
    try:
        codes, scale = codes_of(ordinary, _ROWS)
    except ValueError:
        half = ordinary.half()
        if not torch.equal(half.float(), ordinary):
            return _store_plain(stored, name, value)
        stored[f"{name}.codes"], form = half, "fp16_rows"
    else:
        stored[f"{name}.codes"], stored[f"{name}.scale"], form = codes, scale.half(), "int8"
    stored[f"{name}.special"] = value[rows].clone()
    return {"form": form, "special_rows": rows}


def _store_plain(stored: dict[str, Tensor], name: str, value: Tensor) -> dict[str, Any]:
    half = value.half() if value.dtype == torch.float32 and value.numel() > _SMALL else value
    fits = torch.equal(half.to(value.dtype), value)
    stored[name] = (half if fits else value).contiguous().clone()
    return {"form": "plain", "dtype": str(value.dtype).removeprefix("torch.")}


def _load(file: Any, name: str, entry: Mapping[str, Any]) -> Tensor:
    form = entry["form"]
    if form == "plain":
        plain: Tensor = file.get_tensor(name).to(getattr(torch, entry["dtype"]))
        return plain
    codes = file.get_tensor(f"{name}.codes")
    if form in ("int8", "fp16_rows"):
        value = dequantize(codes, file.get_tensor(f"{name}.scale").float(), _ROWS) if form == "int8" else codes.float()
        special: Tensor = file.get_tensor(f"{name}.special")
        value[list(entry["special_rows"])] = special.float()
        return value.to(special.dtype)
    layout, shape = Layout(entry["group_size"], entry["levels"]), tuple(entry["shape"])
    unpacked = unpack_base3(codes, shape) if form == "ternary" else unpack_bits(codes, shape, int(form[-1]))
    return dequantize(unpacked, file.get_tensor(f"{name}.scale").float(), layout)

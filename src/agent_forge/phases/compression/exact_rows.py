"""Rows that no codec may touch: those of special tokens in embedding and head (premortem RISK-002).

The codec takes the whole tensor; the exact rows follow its payload as they are, and replace the decoded ones. A few
rows cost little, and a thought token that moves is no longer the token that was taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from agent_forge.phases.compression.bitstream import Encoded

_KEY = "exact_rows"


def keep_rows(encoded: Encoded, tensor: Tensor, rows: Sequence[int]) -> Encoded:
    """``encoded`` with rows of the tensor as they are.

    Args:
        encoded: of ``tensor``, from any codec.
        tensor: [rows, columns].
        rows: their numbers, ascending; none leaves ``encoded`` as it is.

    Raises:
        ValueError: a row that the tensor does not have.
    """
    if not rows:
        return encoded
    if tensor.dim() != 2 or not 0 <= min(rows) <= max(rows) < tensor.shape[0]:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no rows {list(rows)}")
    exact = tensor.detach().cpu()[list(rows)].contiguous()
    payload = encoded.payload + exact.view(torch.uint8).numpy().tobytes()
    return replace(encoded, header={**encoded.header, _KEY: list(rows)}, payload=payload)


def split_rows(encoded: Encoded) -> tuple[Encoded, Tensor | None, list[int]]:
    """What the codec gave, and the exact rows [rows, columns] with their numbers; None where there are none.

    Raises:
        ValueError: a header or payload that cannot be.
    """
    rows = [int(row) for row in encoded.header.get(_KEY, ())]
    if not rows:
        return encoded, None, []
    if len(encoded.shape) != 2 or not 0 <= min(rows) <= max(rows) < encoded.shape[0]:
        raise ValueError(f"a tensor of shape {encoded.shape} has no rows {rows}")
    dtype = getattr(torch, encoded.dtype)
    size = len(rows) * encoded.shape[1] * torch.empty(0, dtype=dtype).element_size()
    if len(encoded.payload) < size:
        raise ValueError(f"{len(encoded.payload)} bytes cannot hold {len(rows)} exact rows of {size} bytes")
    at = len(encoded.payload) - size
    exact = torch.frombuffer(bytearray(encoded.payload[at:]), dtype=dtype).reshape(len(rows), encoded.shape[1])
    header = {key: value for key, value in encoded.header.items() if key != _KEY}
    return replace(encoded, header=header, payload=encoded.payload[:at]), exact, rows

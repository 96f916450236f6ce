"""The table of codecs: how each is asked for, and who decodes what.

An option is written ``codec/rate``. VPTQ is not asked for here, because it encodes several tensors at once
(`vptq.encode`); it is decoded here like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from agent_forge.phases.compression import (
    gptq,
    hyper_compression,
    plain,
    seedlm,
    ternary_coding,
    uniform_coding,
    vptq,
)
from agent_forge.phases.compression.bitstream import Encoded
from agent_forge.phases.compression.exact_rows import keep_rows, split_rows

DECODERS: Mapping[str, Callable[[Encoded, Mapping[str, bytes]], Tensor]] = {
    "plain": lambda encoded, shared: plain.decode(encoded),
    "ternary": lambda encoded, shared: ternary_coding.decode(encoded),
    "uniform": lambda encoded, shared: uniform_coding.decode(encoded),
    "seedlm": lambda encoded, shared: seedlm.decode(encoded),
    "hyper": lambda encoded, shared: hyper_compression.decode(encoded),
    "vptq": vptq.decode,
}

LADDER: Mapping[str, tuple[str, ...]] = {
    "plain": ("native", "fp16", "int8", "int4"),
    "ternary": ("exact", "linear8"),
    "uniform": ("0.05", "0.1", "0.15", "0.2", "0.28", "0.4", "0.56", "0.8", "1.1", "1.5"),
    "seedlm": ("4", "3"),
    "hyper": ("6.5", "5.5", "4.5"),
    "gptq": ("8", "4", "3"),
    "vptq": ("3", "2"),
}
"""Rates of each codec from the finest to the coarsest: the next weaker rate of a roll-back is the one before.

Uniform: step in root mean squares. SeedLM, Hyper-Compression, GPTQ, VPTQ: bits a weight."""

LOSSLESS = ("plain/native", "ternary/exact")
"""Options that give every bit back."""

EXTREME_STEP = "4.5"
"""Uniform step at which a Gaussian costs about 0.1 bit: never offered, measured for the ladder, may be forced."""

VPTQ_LAYOUTS: Mapping[str, tuple[tuple[int, int], ...]] = {"3": ((3, 512), (2, 64)), "2": ((4, 256), (2, 16))}
"""Rate → (vector, centroids), the better codebook first and the one for few weights last."""


def decode(encoded: Encoded, shared: Mapping[str, bytes] | None = None) -> Tensor:
    """The reconstruction of a tensor.

    Args:
        encoded: from any codec.
        shared: codebooks by name.

    Raises:
        ValueError: an unknown codec, or bytes that the codec cannot read.
    """
    if encoded.codec not in DECODERS:
        raise ValueError(f"unknown codec {encoded.codec!r}; known are {', '.join(DECODERS)}")
    coded, exact, rows = split_rows(encoded)
    values = DECODERS[coded.codec](coded, shared or {})
    return values if exact is None else values.index_copy(0, torch.tensor(rows), exact)


def encode(
    tensor: Tensor,
    option: str,
    *,
    hessian: Tensor | None = None,
    row_sensitivity: Tensor | None = None,
    exact_rows: Sequence[int] = (),
) -> Encoded:
    """Encodes one tensor as ``option`` says.

    Args:
        tensor: any shape.
        option: "codec/rate", of `LADDER` (all but vptq).
        hessian: [in, in] for the codecs that use it.
        row_sensitivity: see `uniform_coding.encode`.
        exact_rows: rows that come back bit for bit, ascending.

    Raises:
        ValueError: an option that does not exist, or that this tensor cannot take.
    """
    codec, _, rate = option.partition("/")
    known = rate in LADDER.get(codec, ()) or option == f"uniform/{EXTREME_STEP}"
    if not known or codec == "vptq":
        raise ValueError(f"unknown option {option!r}; rates by codec are {dict(LADDER)}")
    encoded = _encode(tensor, codec, rate, hessian, row_sensitivity)
    return encoded if option in LOSSLESS else keep_rows(encoded, tensor, exact_rows)


def _encode(tensor: Tensor, codec: str, rate: str, hessian: Tensor | None, row_sensitivity: Tensor | None) -> Encoded:
    if codec == "plain" or tensor.numel() == 0:  # nothing to round in an empty tensor
        return plain.encode(tensor, form=rate if tensor.numel() else "native")
    if codec == "ternary":
        return ternary_coding.encode(tensor, scales=rate)
    if codec == "uniform":
        usable = hessian if tensor.dim() == 2 else None
        return uniform_coding.encode(tensor, step_fraction=float(rate), row_sensitivity=row_sensitivity, hessian=usable)
    if codec == "seedlm":
        return seedlm.encode(tensor, bits=int(rate))
    if codec == "hyper":
        return hyper_compression.encode(tensor, bits=float(rate))
    if hessian is None:
        raise ValueError(f"option {codec}/{rate} needs the Hessian of the tensor's inputs")
    return gptq.encode(tensor, hessian=hessian, bits=int(rate))


def weaker(option: str) -> str | None:
    """The next finer rate of the same codec, or None at its finest."""
    codec, _, rate = option.partition("/")
    if rate not in LADDER[codec]:
        return f"{codec}/{LADDER[codec][-1]}"
    index = LADDER[codec].index(rate)
    return f"{codec}/{LADDER[codec][index - 1]}" if index else None

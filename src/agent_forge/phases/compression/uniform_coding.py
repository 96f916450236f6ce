"""Entropy-coded uniform quantization: the scalar codec nearest to the rate–distortion bound.

Gish & Pierce 1968 ("Asymptotically efficient quantizing"): a uniform quantizer followed by an entropy coder stays
within 0.255 bits of the Shannon bound at every rate, closer at low rates. One step for the whole tensor is right
for squared error: parts of small variance then cost few bits by themselves.

1. Where there are few codes, each decodes to the mean of the weights that it holds, in fp16 (a table a tensor).
2. Rows may have coarser steps (a power of √2 out of four), chosen from their sensitivity: rows of rare tokens
   hardly touch the loss.

A dead zone around zero was tried and left out: on Gaussian weights it moves along the same curve, or above it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agent_forge.phases.compression.bitstream import Encoded, dtype_name, finish, flat_float, pack_bits, unpack_bits
from agent_forge.phases.compression.entropy import decode_symbols, encode_symbols
from agent_forge.phases.compression.hessian import push_errors

ROW_STEPS = (1.0, 1.4140625, 2.0, 2.828125)
"""Factors on the step of a row: about powers of √2, exact in fp16."""

_MAX_HALF = 2047  # codes −2,047 … 2,047
_MAX_TABLE = 12  # finer steps gain less from centroids than their table costs


def encode(
    tensor: Tensor, *, step_fraction: float, row_sensitivity: Tensor | None = None, hessian: Tensor | None = None
) -> Encoded:
    """Quantizes with a step of ``step_fraction`` root mean squares.

    Args:
        tensor: any shape, floating.
        step_fraction: step over the tensor's root mean square (about 1.2 gives 2 bits, 0.6 gives 3).
        row_sensitivity: [rows] mean curvature of the loss in each row (rows = all but the last dimension);
            a row of a quarter of the highest gets twice the step.
        hessian: [in, in] of the inputs of a matrix [out, in]; then the error of each column is pushed on to the
            free ones (GPTQ), and codes decode to the multiples of the step that this assumed.

    Raises:
        ValueError: a step that is not positive, so fine that the codes leave ±2,047, or values not finite.
    """
    flat = flat_float(tensor)
    scale = float(flat.double().square().mean().sqrt()) if flat.numel() else 0.0
    if step_fraction <= 0:
        raise ValueError(f"step_fraction must be positive, got {step_fraction}")
    step = float(np.float32(scale * step_fraction)) or 1.0
    rows = _num_rows(tuple(tensor.shape))
    classes = _row_classes(row_sensitivity, rows)
    factors = torch.tensor(ROW_STEPS)[classes][:, None] if rows else torch.ones(1, 1)
    unit = flat.view(rows, -1) / (factors * step) if flat.numel() else flat.view(rows, 0)
    if hessian is not None:
        unit = push_errors(unit, hessian, lambda column, _: torch.round(column))
    codes = torch.round(unit).to(torch.int64)
    half = int(codes.abs().max()) if codes.numel() else 0
    if half > _MAX_HALF:
        raise ValueError(f"a step of {step_fraction} root mean squares needs ±{half} codes, the limit is ±{_MAX_HALF}")
    centred = hessian is None and half <= _MAX_TABLE
    table = _centroids(unit, codes, half).numpy().astype("<f2").tobytes() if centred else b""
    mixed = bool(classes.any())
    row_bytes = pack_bits(classes.numpy(), 2) if mixed else b""
    symbols = encode_symbols(codes.numpy() + half, 2 * half + 1)
    payload = row_bytes + table + symbols
    header = {"half": half, "step": step, "rows": mixed, "table": centred}
    return Encoded("uniform", tuple(tensor.shape), dtype_name(tensor), header, payload)


def decode(encoded: Encoded) -> Tensor:
    """Table look-up, then one multiplication by the step of the row."""
    half, rows = int(encoded.header["half"]), _num_rows(encoded.shape)
    row_bytes = (2 * rows + 7) // 8 if encoded.header["rows"] else 0
    classes = unpack_bits(encoded.payload[:row_bytes], 2, rows) if row_bytes else np.zeros(rows, dtype=np.int64)
    end = row_bytes + (2 * (2 * half + 1) if encoded.header["table"] else 0)
    table = np.arange(-half, half + 1, dtype=np.float32)
    if end > row_bytes:
        table = np.frombuffer(encoded.payload[row_bytes:end], dtype="<f2").astype(np.float32)
    symbols = decode_symbols(encoded.payload[end:], 2 * half + 1, encoded.num_weights)
    factors = np.array(ROW_STEPS, dtype=np.float32)[classes] * np.float32(encoded.header["step"])
    values = table[symbols].reshape(rows, -1) * factors[:, None] if symbols.size else table[symbols]
    return finish(torch.from_numpy(values), encoded)


def _num_rows(shape: tuple[int, ...]) -> int:
    return max(1, int(np.prod(shape[:-1], dtype=np.int64))) if len(shape) > 1 else 1


def _row_classes(sensitivity: Tensor | None, rows: int) -> Tensor:
    """Index into `ROW_STEPS` per row: step ∝ sensitivity^(−1/2), the most sensitive row keeps the finest."""
    if sensitivity is None or rows < 2:
        return torch.zeros(rows, dtype=torch.int64)
    if sensitivity.shape != (rows,):
        raise ValueError(f"row_sensitivity must have shape ({rows},), got {tuple(sensitivity.shape)}")
    relative = (sensitivity.double().clamp_min(0) / sensitivity.double().max().clamp_min(1e-300)).clamp_min(1e-9)
    return torch.round(-torch.log2(relative)).clamp(0, len(ROW_STEPS) - 1).long()


def _centroids(unit: Tensor, codes: Tensor, half: int) -> Tensor:
    """Mean of the weights of every code in units of the step [2·half + 1], fp16; zero stays zero."""
    index = (codes + half).reshape(-1)
    sums = torch.zeros(2 * half + 1, dtype=torch.float64).index_add_(0, index, unit.reshape(-1).double())
    counts = torch.bincount(index, minlength=2 * half + 1)
    table = torch.where(counts > 0, sums / counts.clamp_min(1), torch.arange(-half, half + 1).double())
    table[half] = 0
    return table.half()

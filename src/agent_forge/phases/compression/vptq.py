"""VPTQ: vector quantization of weight matrices with second-order error feedback, on the CPU.

Liu et al. 2024, "VPTQ: Extreme Low-bit Vector Post-Training Quantization", arXiv:2409.17066, section 3. Vectors of
v weights run down a column (the output dimension), so that within one vector the Hessian's diagonal is constant and
the nearest centroid is the Hessian-optimal one. Columns are quantized in turn, the error pushed on through the
inverse-Hessian Cholesky factor. Bits a weight: (log2 k + log2 k_residual) / v plus scales plus codebooks.

What we do differently:

1. One codebook is shared by matrices of equal shape (each column has an fp16 scale), because at 25M parameters the
   65,536 entries of the paper are larger than the layer that they describe. Codebook bytes are counted.
2. The codebook is fitted twice: to the weights, then to the columns as they stand when their turn comes, error of
   earlier columns included. That is what the quantizer really sees.
3. Outlier columns (largest H_jj·|w_j|²) are int8 with the column's scale instead of a codebook of their own.
4. Indices are entropy-coded where that is smaller; centroids are not used equally often.
5. k-means runs in torch on the CPU; the published quantizer needs a GPU library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agent_forge.phases.compression.bitstream import Encoded, dtype_name, finish, flat_float, pack_bits, unpack_bits
from agent_forge.phases.compression.entropy import decode_symbols, encode_symbols
from agent_forge.phases.compression.hessian import push_errors

_MAX_SAMPLES = 1 << 16  # vectors that k-means sees; enough for 4,096 centroids


@dataclass(frozen=True)
class Codebooks:
    """Main and residual centroids [k, v] in fp16; the residual may be absent. Shared by matrices of one shape."""

    main: Tensor
    residual: Tensor | None = None

    def stored(self, name: str) -> dict[str, bytes]:
        """Their bytes as shared entries of a file."""
        tables = {name: self.main} | ({f"{name}+": self.residual} if self.residual is not None else {})
        return {key: table.numpy().astype("<f2").tobytes() for key, table in tables.items()}


@dataclass
class _Pass:
    """What one column pass over a matrix found: indices [groups, in] and the vectors that it quantized."""

    main: Tensor
    residual: Tensor
    outliers: dict[int, Tensor] = field(default_factory=dict)
    seen: list[Tensor] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)


def encode(
    weights: Sequence[Tensor],
    hessians: Sequence[Tensor],
    *,
    name: str,
    vector: int = 4,
    centroids: int = 256,
    residual_centroids: int = 0,
    outlier_columns: int = 0,
    iterations: int = 15,
    generator: torch.Generator,
) -> tuple[list[Encoded], dict[str, bytes]]:
    """Quantizes matrices of equal shape with one pair of codebooks.

    Args:
        weights: each [out, in].
        hessians: each [in, in].
        name: of the shared codebook in the file.
        vector: v, weights of one column that share an index.
        centroids: k, 2–8,192.
        residual_centroids: centroids of the second stage; 0 = none.
        outlier_columns: columns kept in int8.
        iterations: of k-means.
        generator: picks the first centroids.

    Returns:
        The encoded matrices, and codebook bytes by name.

    Raises:
        ValueError: no matrices, unequal shapes, or numbers outside their ranges.
    """
    _check(weights, hessians, vector, centroids, residual_centroids, outlier_columns)
    scales = [_column_scales(weight) for weight in weights]
    outliers = [_outliers(w, h, outlier_columns) for w, h in zip(weights, hessians, strict=True)]
    importance = [(h.diagonal().clamp_min(1e-12) * s.float() ** 2) for h, s in zip(hessians, scales, strict=True)]

    # 1. codebook of the weights themselves
    everything = [[c for c in range(w.shape[1]) if c not in o] for w, o in zip(weights, outliers, strict=True)]
    groups = -(-weights[0].shape[0] // vector)
    vectors = torch.cat([_vectors(w, s, vector, c) for w, s, c in zip(weights, scales, everything, strict=True)])
    main = _kmeans(vectors, _loads(importance, everything, groups), centroids, iterations, generator)
    books = Codebooks(main.half())
    # 2. column pass; refit to what the pass saw; 3. residual codebook of what it left; then the pass that counts
    for stage in ("refit", "residual" if residual_centroids else "final", "final"):
        passes = [_column_pass(*item, books, vector) for item in zip(weights, hessians, scales, outliers, strict=True)]
        load = _loads(importance, [p.columns for p in passes], groups)
        if stage == "refit":
            seen = torch.cat([part for p in passes for part in p.seen])
            books = Codebooks(_kmeans(seen, load, centroids, iterations, generator, start=books.main.float()).half())
        elif stage == "residual":
            left = torch.cat([part for p in passes for part in p.errors])
            extra = _kmeans(left, load, residual_centroids, iterations, generator)
            books = Codebooks(books.main, extra.half())
        else:
            break
    stored = books.stored(name)
    return [
        _encode_matrix(w, s, p, books, vector, tuple(stored)) for w, s, p in zip(weights, scales, passes, strict=True)
    ], stored


def decode(encoded: Encoded, shared: Mapping[str, bytes]) -> Tensor:
    """Table look-ups, a sum of two fp16 numbers, one multiplication by the column's scale.

    Raises:
        ValueError: a codebook that is missing or of the wrong size.
    """
    header, (rows, columns) = encoded.header, encoded.shape
    vector, outliers = int(header["vector"]), list(header["outliers"])
    sizes = [int(header["centroids"]), int(header["residual"])]
    groups, plain = -(-rows // vector), [c for c in range(columns) if c not in set(outliers)]
    scales = torch.from_numpy(np.frombuffer(encoded.payload[: 2 * columns], dtype="<f2").astype(np.float32))
    end = 2 * columns + rows * len(outliers)
    exact = torch.from_numpy(np.frombuffer(encoded.payload[2 * columns : end], dtype=np.int8).astype(np.float32))
    values = torch.zeros(groups, len(plain), vector)
    for size, name, (length, coded) in zip(sizes, encoded.shared, header["streams"], strict=False):
        table = np.frombuffer(shared.get(name, b""), dtype="<f2").astype(np.float32)
        if table.size != size * vector:
            raise ValueError(f"codebook {name!r} has {table.size} numbers, {size} × {vector} were expected")
        stream, end = encoded.payload[end : end + length], end + length
        index = _decode_indices(stream, size, groups * len(plain), coded)
        values += torch.from_numpy(table.reshape(size, vector)[index]).view(groups, len(plain), vector)
    out = torch.zeros(rows, columns)
    out[:, plain] = values.permute(0, 2, 1).reshape(groups * vector, len(plain))[:rows]
    out[:, outliers] = exact.view(len(outliers), rows).T
    return finish(out * scales, encoded)


def _check(
    weights: Sequence[Tensor], hessians: Sequence[Tensor], vector: int, main: int, residual: int, outliers: int
) -> None:
    shapes = {tuple(weight.shape) for weight in weights}
    if len(shapes) != 1 or len(weights) != len(hessians) or any(weight.dim() != 2 for weight in weights):
        raise ValueError(f"matrices of one shape with a Hessian each are needed, got shapes {sorted(shapes)}")
    columns = weights[0].shape[1]
    if any(hessian.shape != (columns, columns) for hessian in hessians):
        raise ValueError(f"every Hessian must be [{columns}, {columns}]")
    if not (1 <= vector <= 16 and 2 <= main <= 8192 and 0 <= residual <= 8192 and 0 <= outliers < columns):
        raise ValueError(f"vector {vector}, centroids {main} + {residual} or {outliers} outlier columns out of range")
    for weight in weights:
        flat_float(weight)


def _column_scales(weight: Tensor) -> Tensor:
    """Root mean square of every column in fp16 [in]; 1 where a column is zero."""
    scales = weight.detach().float().square().mean(dim=0).sqrt().half()
    return torch.where(scales > 0, scales, 1.0)


def _outliers(weight: Tensor, hessian: Tensor, count: int) -> set[int]:
    load = hessian.diagonal() * weight.detach().float().square().sum(dim=0)
    return set(load.topk(count).indices.tolist()) if count else set()


def _loads(importance: Sequence[Tensor], columns: Sequence[Sequence[int]], width: int) -> Tensor:
    """Weight of every vector in k-means: its column's importance over the matrix's mean, ``width`` vectors a column."""
    parts = [(p / p.mean())[list(c)].repeat_interleave(width) for p, c in zip(importance, columns, strict=True)]
    return torch.cat(parts)


def _vectors(weight: Tensor, scales: Tensor, vector: int, columns: Sequence[int]) -> Tensor:
    """[columns · groups, v], a column's vectors together, rows padded with zeros."""
    unit = (weight.detach().float() / scales.float())[:, list(columns)]
    return _split_column(unit.T, vector).reshape(-1, vector)


def _split_column(columns: Tensor, vector: int) -> Tensor:
    """[n, out] → [n, groups, v], padded with zeros."""
    padded = torch.zeros(columns.shape[0], -(-columns.shape[1] // vector) * vector)
    padded[:, : columns.shape[1]] = columns
    return padded.view(columns.shape[0], -1, vector)


def _column_pass(
    weight: Tensor, hessian: Tensor, scales: Tensor, outliers: set[int], books: Codebooks, vector: int
) -> _Pass:
    """One pass over the columns with error feedback."""
    rows, columns = weight.shape
    groups = -(-rows // vector)
    found = _Pass(torch.zeros(groups, columns, dtype=torch.int64), torch.zeros(groups, columns, dtype=torch.int64))
    main = books.main.float()
    residual = None if books.residual is None else books.residual.float()

    def rounder(column: Tensor, index: int) -> Tensor:
        scale = scales[index].float()
        if index in outliers:
            found.outliers[index] = torch.round(column / scale * 16).clamp(-127, 127).to(torch.int8)
            return found.outliers[index] / 16 * scale
        vectors = _split_column(column[None] / scale, vector)[0]
        found.main[:, index] = _nearest(vectors, main)
        fitted = main[found.main[:, index]]
        found.seen.append(vectors)
        found.errors.append(vectors - fitted)
        found.columns.append(index)
        if residual is not None:
            found.residual[:, index] = _nearest(vectors - fitted, residual)
            fitted = fitted + residual[found.residual[:, index]]
        return fitted.reshape(-1)[:rows] * scale

    push_errors(weight, hessian, rounder)
    return found


def _nearest(vectors: Tensor, table: Tensor) -> Tensor:
    return (table.square().sum(dim=1) / 2 - vectors @ table.T).argmin(dim=1)


def _kmeans(
    vectors: Tensor,
    weights: Tensor,
    count: int,
    iterations: int,
    generator: torch.Generator,
    start: Tensor | None = None,
) -> Tensor:
    """Weighted Lloyd iterations; a centroid that lost all vectors takes one of the worst-fitted vectors."""
    if vectors.shape[0] > _MAX_SAMPLES:
        picked = torch.randperm(vectors.shape[0], generator=generator)[:_MAX_SAMPLES]
        vectors, weights = vectors[picked], weights[picked]
    if start is None:
        index = torch.randint(vectors.shape[0], (count,), generator=generator)
        start = vectors[torch.randperm(vectors.shape[0], generator=generator)[:count]]
        start = torch.cat([start, vectors[index[: count - start.shape[0]]]])
    centres = start.clone()
    for _ in range(iterations):
        index = torch.cat([_nearest(part, centres) for part in torch.split(vectors, 8192)])
        mass = torch.zeros(count).index_add_(0, index, weights)
        sums = torch.zeros_like(centres).index_add_(0, index, vectors * weights[:, None])
        centres = torch.where(mass[:, None] > 0, sums / mass.clamp_min(1e-30)[:, None], centres)
        empty = (mass == 0).nonzero()[:, 0][: vectors.shape[0]]
        if empty.numel():
            misfit = (vectors - centres[index]).square().sum(dim=1) * weights
            centres[empty] = vectors[misfit.topk(empty.numel()).indices]
    return centres


def _encode_matrix(
    weight: Tensor, scales: Tensor, found: _Pass, books: Codebooks, vector: int, names: tuple[str, ...]
) -> Encoded:
    outliers = sorted(found.outliers)
    plain = [c for c in range(weight.shape[1]) if c not in found.outliers]
    tables = [(books.main, found.main)] + ([(books.residual, found.residual)] if books.residual is not None else [])
    streams, blob = [], b""
    for table, index in tables:
        stream, coded = _encode_indices(index[:, plain].reshape(-1), table.shape[0])
        streams.append([len(stream), coded])
        blob += stream
    stored = scales.clone()
    for column in outliers:
        stored[column] = scales[column] / 16  # exact: a power of two
    exact = b"".join(found.outliers[column].numpy().tobytes() for column in outliers)
    header = {"vector": vector, "centroids": books.main.shape[0], "outliers": outliers, "streams": streams}
    header["residual"] = 0 if books.residual is None else books.residual.shape[0]
    payload = stored.numpy().astype("<f2").tobytes() + exact + blob
    return Encoded("vptq", tuple(weight.shape), dtype_name(weight), header, payload, names)


def _encode_indices(index: Tensor, size: int) -> tuple[bytes, bool]:
    packed = pack_bits(index.numpy(), max(1, (size - 1).bit_length()))
    coded = encode_symbols(index.numpy(), size)
    return (coded, True) if len(coded) < len(packed) else (packed, False)


def _decode_indices(stream: bytes, size: int, count: int, coded: bool) -> np.ndarray:
    if coded:
        return decode_symbols(stream, size, count)
    return unpack_bits(stream, max(1, (size - 1).bit_length()), count)

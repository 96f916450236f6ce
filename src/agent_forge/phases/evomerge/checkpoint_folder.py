"""Reads and writes checkpoint folders tensor by tensor: memory-mapped safetensors, one file or sharded.

The safetensors format is small (8 bytes of header length, a JSON header, raw little-endian bytes), and
reading it here rather than through the library gives two things: pages go back to the system after each
tensor (resident memory stays at one tensor, not one checkpoint), and files are written as tensors come.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_forge.errors import HandoffError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip
WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: file, safetensors dtype, shape, first byte and length in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int

    @property
    def is_floating(self) -> bool:
        """True for the dtypes that can be averaged."""
        return self.dtype[0] in "FB" and self.dtype != "BOOL"


class CheckpointFolder:
    """The tensors of one checkpoint, read on demand.

    Raises:
        HandoffError: no folder, no config.json, no safetensors, a damaged header, a shard that is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._maps: dict[Path, mmap.mmap] = {}
        if not path.is_dir():
            raise HandoffError(f"{path}: there is no such checkpoint folder")

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json."""
        return _json(self.path / "config.json")

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every tensor by name."""
        index = self.path / INDEX
        if index.exists():
            files = sorted({self.path / str(name) for name in _json(index).get("weight_map", {}).values()})
        elif (self.path / SINGLE).exists():
            files = [self.path / SINGLE]
        else:
            raise HandoffError(f"{self.path}: neither {SINGLE} nor {INDEX} (weights in pickles are not read)")
        return {name: entry for file in files for name, entry in read_header(file).items()}

    def tensor(self, name: str) -> Tensor:
        """A view of the file's bytes; valid until `release`, never to be written to."""
        import torch

        entry = self.entries[name]
        dtype = getattr(torch, DTYPES[entry.dtype])
        if entry.length == 0:
            return torch.empty(entry.shape, dtype=dtype)
        count = entry.length // dtype.itemsize
        return torch.frombuffer(self._map(entry.file), dtype=dtype, count=count, offset=entry.start).view(entry.shape)

    def release(self, name: str) -> None:
        """Gives the pages of a tensor back to the system; reading it again reads the file again."""
        entry = self.entries[name]
        first = entry.start - entry.start % mmap.PAGESIZE
        if entry.length and hasattr(mmap, "MADV_DONTNEED"):
            self._map(entry.file).madvise(mmap.MADV_DONTNEED, first, entry.start + entry.length - first)

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            with file.open("rb") as handle:
                # A private mapping is writable in name, which is what torch.frombuffer wants; the file never changes.
                self._maps[file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._maps[file]


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file.

    Raises:
        HandoffError: the file is missing, truncated or not safetensors.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > min(size - 8, 100_000_000):
                raise ValueError(f"the header claims {length} bytes, the file has {size}")
            header = json.loads(handle.read(length))
    except FileNotFoundError as error:
        raise HandoffError(f"{file}: named by the index, but missing") from error
    except (ValueError, struct.error) as error:
        raise HandoffError(f"{file}: not a whole safetensors file: {error}") from error
    entries = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        if info["dtype"] not in DTYPES:
            raise HandoffError(f"{file}: tensor {name} has dtype {info['dtype']}, known are {', '.join(DTYPES)}")
        if 8 + length + end > size:
            raise HandoffError(f"{file}: tensor {name} ends at byte {8 + length + end}, the file at {size}: truncated")
        entries[name] = Entry(file, info["dtype"], tuple(info["shape"]), 8 + length + begin, end - begin)
    return entries


class CheckpointWriter:
    """Writes safetensors files as tensors come; the headers are known before the first one.

    Args:
        folder: an existing, empty folder.
        tensors: name → (safetensors dtype, shape) of all that will come.
        max_shard_bytes: a file holds at most so many bytes of tensors (but at least one tensor).
    """

    def __init__(self, folder: Path, tensors: Mapping[str, tuple[str, Sequence[int]]], max_shard_bytes: int) -> None:
        self.folder = folder
        # The library's order: wide dtypes first, so that every tensor is aligned, then names.
        ordered = sorted(tensors, key=lambda name: (-WIDTH.get(tensors[name][0], 1), name))
        sizes = {name: prod(shape) * WIDTH.get(dtype, 1) for name, (dtype, shape) in tensors.items()}
        shards: list[list[str]] = [[]]
        filled = 0
        for name in ordered:
            if shards[-1] and filled + sizes[name] > max_shard_bytes:
                shards.append([])
                filled = 0
            shards[-1].append(name)
            filled += sizes[name]
        self.order = ordered
        self.total_bytes = sum(sizes.values())
        self._file_of: dict[str, str] = {}
        self._headers: dict[str, bytes] = {}
        for number, names in enumerate(shards, start=1):
            file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            self._headers[file] = _header(names, tensors, sizes)
            self._file_of.update(dict.fromkeys(names, file))
        self._open: tuple[str, Any] | None = None
        self._next = 0

    def write(self, name: str, tensor: Tensor) -> None:
        """Appends a tensor; they must come in ``order``."""
        import torch

        if self.order[self._next] != name:
            raise ValueError(f"tensor {name!r} came, {self.order[self._next]!r} is next")
        self._next += 1
        file = self._file_of[name]
        if self._open is None or self._open[0] != file:
            self.close()
            handle = (self.folder / file).open("wb", buffering=0)
            handle.write(self._headers[file])
            self._open = (file, handle)
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        while data:
            data = data[self._open[1].write(data) :]

    def close(self) -> None:
        """Closes the file that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def finish(self) -> None:
        """Closes the last file and writes the index of a sharded checkpoint.

        Raises:
            ValueError: tensors that were announced did not come.
        """
        self.close()
        if self._next != len(self.order):
            raise ValueError(f"{len(self.order) - self._next} tensors did not come, first {self.order[self._next]!r}")
        if len(self._headers) > 1:
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": dict(sorted(self._file_of.items()))}
            (self.folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def dtype_code(dtype: torch.dtype | str) -> str:
    """``F32`` for ``torch.float32``, ``"float32"`` or ``"fp32"``.

    Raises:
        ValueError: a dtype that safetensors does not know.
    """
    name = str(dtype).removeprefix("torch.")
    name = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}.get(name, name)
    for code, known in DTYPES.items():
        if known == name:
            return code
    raise ValueError(f"unknown dtype {dtype!r}; known are {', '.join(DTYPES.values())}")


def _header(names: Sequence[str], tensors: Mapping[str, tuple[str, Sequence[int]]], sizes: Mapping[str, int]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        dtype, shape = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + sizes[name]]}
        offset += sizes[name]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HandoffError(f"{file}: missing") from error
    except ValueError as error:
        raise HandoffError(f"{file}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise HandoffError(f"{file}: a JSON object was expected")
    return value

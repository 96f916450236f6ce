"""States of a running phase: saved often, loaded once after a kill.

One state is two files: ``step-<n>.safetensors`` with every tensor, and ``step-<n>.json`` with the
nested mapping around them, the digest of the tensors and its own digest. The JSON file is published
last, so it is what makes a state exist. A damaged newest state falls back to the one before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_forge.contract import canonical_json, digest_of
from agent_forge.errors import DiskFull
from agent_forge.storage import durable

if TYPE_CHECKING:
    import numpy
    import torch

FORMAT = 1
_NAME = re.compile(r"step-(\d{12})\.json$")
_HEADER_ALIGNMENT = 8


def save_state(
    folder: Path,
    state: Mapping[str, Any],
    step: int,
    keep: int = 3,
    *,
    reserve_bytes: int = durable.DEFAULT_RESERVE_BYTES,
) -> Path:
    """Saves a state durably, checks that it reads back, then drops all but the ``keep`` newest.

    When the disk is short, older states go first; the newest good one never does.

    Args:
        folder: of this phase run; made when it is not there.
        state: nested mappings, lists and tuples of tensors, NumPy arrays, numbers, strings, booleans and None.
        step: a later one replaces an earlier one as the newest.
        keep: how many states stay, at least 1.
        reserve_bytes: free space that must remain.

    Returns:
        The JSON file of the state.

    Raises:
        ValueError: a value of a type that cannot be saved, or ``keep`` < 1.
        DiskFull: no room even without the older states; the newest of them is intact.
    """
    if keep < 1 or step < 0:
        raise ValueError(f"keep must be at least 1 and step at least 0, not {keep} and {step}")
    tensors: list[torch.Tensor] = []
    skeleton = _encode(state, tensors, "state")
    header, size = _header(tensors)
    path = folder / f"step-{step:012d}.json"
    with durable.disk_errors(path):
        durable.make_folder(folder)
        _make_room(folder, size, reserve_bytes)
        temporary, digest, written = durable.write_temporary(folder, _pieces(header, tensors))
        durable.publish(temporary, path.with_suffix(".safetensors"))
        content = {"format": FORMAT, "step": step, "state": skeleton, "sha256": digest, "size_bytes": written}
        body = {"content": content, "sha256": digest_of(content)}
        durable.publish_bytes(path, json.dumps(body).encode())
    if _intact(path) is None:
        raise DiskFull(f"{path} does not read back as it was written; the disk loses bytes, choose another --home")
    prune_states(folder, keep)
    return path


def load_newest(folder: Path) -> tuple[dict[str, Any], int] | None:
    """The newest intact state with its step; damaged ones are passed over.

    Returns:
        State (tensors on the CPU) and step, or None when there is no intact state.
    """
    for path in reversed(states(folder)):
        content = _intact(path)
        if content is not None:
            return _load(path, content), int(content["step"])
    return None


def states(folder: Path) -> list[Path]:
    """The JSON files of the states in ``folder``, oldest first; nothing is checked."""
    return sorted(path for path in folder.glob("step-*.json") if _NAME.match(path.name))


def damaged_states(folder: Path) -> list[Path]:
    """The JSON files of states that would be passed over."""
    return [path for path in states(folder) if _intact(path) is None]


def prune_states(folder: Path, keep: int) -> int:
    """Drops all but the ``keep`` newest states, and never the last intact one. Returns the bytes freed."""
    freed, found = 0, states(folder)
    doomed = found[: max(0, len(found) - keep)]
    if doomed and not any(_intact(path) is not None for path in found[len(doomed) :]):
        last_good = next((path for path in reversed(doomed) if _intact(path) is not None), None)
        doomed = [path for path in doomed if path != last_good]
    for path in doomed:
        # The JSON first: without it the tensors are only bytes, without them the JSON would be a lie.
        for file in (path, path.with_suffix(".safetensors")):
            if file.is_file():
                freed += file.stat().st_size
                file.unlink()
    for file in folder.glob("step-*.safetensors"):
        if not file.with_suffix(".json").exists():
            freed += file.stat().st_size
            file.unlink()
    return freed


def _make_room(folder: Path, size: int, reserve_bytes: int) -> None:
    for keep in (None, 2, 1):
        if keep is not None:
            prune_states(folder, keep)
        try:
            durable.require_space(folder, size, reserve_bytes)
        except DiskFull:
            if keep == 1:
                raise
        else:
            return


def _intact(path: Path) -> dict[str, Any] | None:
    """The content of a state whose two files are as they were written, else None."""
    try:
        body = json.loads(path.read_bytes())
        content: dict[str, Any] = body["content"]
        if digest_of(content) != body["sha256"] or content["format"] > FORMAT:
            return None
        tensors = path.with_suffix(".safetensors")
        if tensors.stat().st_size != content["size_bytes"]:
            return None
        return content if durable.sha256_of(tensors)[0] == content["sha256"] else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _load(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    from safetensors.torch import load_file

    tensors = load_file(path.with_suffix(".safetensors"))
    state = _decode(content["state"], tensors)
    assert isinstance(state, dict)
    return state


def _encode(value: Any, tensors: list[torch.Tensor], where: str) -> Any:
    """JSON for a nested value; tensors become numbers into ``tensors``. Every container is tagged: none is guessed."""
    import numpy
    import torch

    if isinstance(value, torch.Tensor):
        tensors.append(value.detach())
        return {"tensor": len(tensors) - 1}
    if isinstance(value, numpy.ndarray):
        tensors.append(torch.from_numpy(numpy.ascontiguousarray(value)))
        return {"array": len(tensors) - 1, "shape": list(value.shape)}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # As text: JSON knows neither NaN nor infinity, and repr gives every bit back.
        return {"float": repr(value)}
    if isinstance(value, numpy.generic):
        return _encode(value.item(), tensors, where)
    if isinstance(value, Mapping):
        pairs = []
        for key, each in value.items():
            if not isinstance(key, str | int):
                raise ValueError(f"{where} has the key {key!r}; keys must be text or whole numbers")
            pairs.append([key, _encode(each, tensors, f"{where}.{key}")])
        return {"mapping": pairs}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_encode(each, tensors, f"{where}[{index}]") for index, each in enumerate(value)]}
    raise ValueError(f"{where} is a {type(value).__name__}, which cannot be saved without pickle")


def _decode(node: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        return tensors[str(node["tensor"])]
    if "array" in node:
        array: numpy.ndarray[Any, Any] = tensors[str(node["array"])].numpy()
        return array.reshape(node["shape"])
    if "float" in node:
        return float(node["float"])
    if "mapping" in node:
        return {key: _decode(each, tensors) for key, each in node["mapping"]}
    if "tuple" in node:
        return tuple(_decode(each, tensors) for each in node["tuple"])
    return [_decode(each, tensors) for each in node["list"]]


def _header(tensors: list[torch.Tensor]) -> tuple[bytes, int]:
    """The header of a safetensors file and the size of the whole file.

    Written by hand so that tensors stream to disk, without a second copy of all of them in memory.
    """
    entries, offset = {}, 0
    for index, tensor in enumerate(tensors):
        size = tensor.numel() * tensor.element_size()
        entries[str(index)] = {
            "dtype": _dtype_name(tensor), "shape": list(tensor.shape), "data_offsets": [offset, offset + size]
        }  # fmt: skip
        offset += size
    text = canonical_json(entries).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + offset


def _pieces(header: bytes, tensors: list[torch.Tensor]) -> Iterator[bytes | memoryview]:
    import torch

    yield header
    for tensor in tensors:
        flat = tensor.to("cpu").contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def _dtype_name(tensor: torch.Tensor) -> str:
    import torch

    names = {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
        torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
    }  # fmt: skip
    if tensor.dtype not in names:
        raise ValueError(f"a tensor of {tensor.dtype} cannot be saved; known are {', '.join(map(str, names))}")
    return names[tensor.dtype]

"""The `.forge` file: one agent as one file.

```
header     60 bytes: magic 8 · version u32 · manifest length u64 · sha256 of the manifest 32 · sha256[:8] of these 52
manifest   zstd(JSON): config, generation config, ternary sidecar, tied names, tensors, facts, sections
sections   in the order of the manifest, without a gap: tokenizer · codebooks · tensors · what else was given
```
Integers are little-endian. Every section has a digest (sha256, first 128 bits); the file ends where the last one
ends. So every byte is covered, and a truncated or altered file is refused with the name of the section. Nothing that
varies between runs is written: equal inputs give equal bytes. Tensors below 2 KiB share one section.
Reading holds one section at a time besides the model that is being filled.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from agent_forge.contract import canonical_json
from agent_forge.errors import ArtifactCorrupt, ArtifactMissing, HandoffError
from agent_forge.phases.compression import codecs
from agent_forge.phases.compression.atomic_file import write_atomically
from agent_forge.phases.compression.bitstream import Encoded
from agent_forge.phases.compression.plain import compress_bytes, decompress_bytes
from agent_forge.phases.compression.tokenizer_bytes import pack_tokenizer, unpack_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAGIC = b"\x89FORGE\r\n"
VERSION = 2  # 2: exact rows after a payload
_HEADER = struct.Struct("<8sIQ32s")
_HEADER_BYTES = _HEADER.size + 8
_SMALL_BYTES = 2048
_MANIFEST_LIMIT = 1 << 28
_BAD_VALUES = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RuntimeError)


def stored_tensors(model: PreTrainedModel) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every parameter and persistent buffer once, and the aliases of tied ones (alias → name)."""
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    owner: dict[int, str] = {}
    aliased = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {
        name for name, _ in model.named_parameters()
    }
    for name, tensor in sorted(model.state_dict(keep_vars=True).items(), key=lambda item: item[0] in aliased):
        if id(tensor) in owner:
            tied[name] = owner[id(tensor)]
        else:
            owner[id(tensor)] = name
            tensors[name] = tensor.detach()
    return tensors, tied


def config_of(model: PreTrainedModel) -> dict[str, Any]:
    """The configuration without what differs between machines and library versions."""
    config = json.loads(model.config.to_json_string(use_diff=True))
    return {"model_type": model.config.model_type} | {
        key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version", "dtype")
    }


@dataclass(frozen=True)
class Compressed:
    """All that a file holds, encoded.

    Attributes:
        config: of the model, as `PreTrainedConfig.to_dict` gives it.
        tensors: by parameter or buffer name.
        tied: alias → name of the tensor that it shares.
        shared: codebooks by name.
        ternary: the sidecar of ternary tensors, or None.
        generation: the generation config, or None.
        extra: further sections by name (expert vectors, retrieval index).
        facts: JSON about the agent; nothing that varies between equal runs.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Encoded]
    tied: Mapping[str, str]
    shared: Mapping[str, bytes]
    ternary: Mapping[str, Any] | None = None
    generation: Mapping[str, Any] | None = None
    extra: Mapping[str, bytes] | None = None
    facts: Mapping[str, Any] | None = None


def to_bytes(compressed: Compressed, tokenizer: PreTrainedTokenizerBase) -> bytes:
    """The whole file. Encoded agents are small; the decoded model is never held here."""
    sections = {"tokenizer": pack_tokenizer(tokenizer)}
    sections |= {f"codebook/{name}": compressed.shared[name] for name in sorted(compressed.shared)}
    tensors: dict[str, Any] = {}
    small = b""
    for name in sorted(compressed.tensors):
        encoded = compressed.tensors[name]
        entry: dict[str, Any] = {"codec": encoded.codec, "shape": list(encoded.shape), "header": dict(encoded.header)}
        entry |= {"dtype": encoded.dtype, "shared": list(encoded.shared), "bytes": len(encoded.payload)}
        if len(encoded.payload) < _SMALL_BYTES:
            entry["offset"] = len(small)
            small += encoded.payload
        else:
            sections[f"tensor/{name}"] = encoded.payload
        tensors[name] = entry
    sections["tensors/small"] = small
    sections |= {f"extra/{name}": blob for name, blob in sorted((compressed.extra or {}).items())}
    manifest = {
        "config": compressed.config,
        "facts": compressed.facts or {},
        "generation": compressed.generation,
        "sections": [[name, len(blob), _digest(blob)] for name, blob in sections.items()],
        "tensors": tensors,
        "ternary": compressed.ternary,
        "tied": compressed.tied,
    }
    packed = compress_bytes(canonical_json(manifest).encode())
    header = _HEADER.pack(MAGIC, VERSION, len(packed), hashlib.sha256(packed).digest())
    return b"".join([header, hashlib.sha256(header).digest()[:8], packed, *sections.values()])


def write(path: Path, compressed: Compressed, tokenizer: PreTrainedTokenizerBase) -> int:
    """Writes the file atomically and returns its size in bytes.

    Raises:
        DiskFull: no room; nothing is left behind.
    """
    blob = to_bytes(compressed, tokenizer)
    write_atomically(Path(path), blob)
    return len(blob)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, header and sizes checked, sections not read.

    Raises:
        ArtifactMissing: no such file.
        ArtifactCorrupt: truncated or altered.
        HandoffError: written by a newer version.
    """
    with _opened(Path(path)) as (_, manifest):
        return manifest


def verify(path: Path) -> None:
    """Reads every section against its digest.

    Raises:
        ArtifactMissing, ArtifactCorrupt, HandoffError: as `read_manifest`.
    """
    with _opened(Path(path)) as (file, manifest):
        for _ in _sections(Path(path), file, manifest):
            pass


def read_section(path: Path, name: str) -> bytes:
    """One section's bytes, such as "extra/experts".

    Raises:
        KeyError: the file has no such section.
        ArtifactMissing, ArtifactCorrupt, HandoffError: as `read_manifest`.
    """
    with _opened(Path(path)) as (file, manifest):
        for found, blob in _sections(Path(path), file, manifest):
            if found == name:
                return blob
    raise KeyError(name)


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, decoded tensor) one after the other; one section is held at a time.

    Raises:
        ArtifactMissing, ArtifactCorrupt, HandoffError: as `read_manifest`.
    """
    path = Path(path)
    with _opened(path) as (file, manifest):
        shared: dict[str, bytes] = {}
        for section, blob in _sections(path, file, manifest):
            if section.startswith("codebook/"):
                shared[section.removeprefix("codebook/")] = blob
            for name, entry, payload in _payloads(section, blob, manifest["tensors"]):
                with _named(path, f"tensor/{name}"):
                    tensor = _decode(entry, payload, shared)
                yield name, tensor


def read_model(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The agent: model (fp32, eval mode, on the CPU) and tokenizer.

    Raises:
        ArtifactMissing: no such file.
        ArtifactCorrupt: truncated or altered; the message names the section.
        HandoffError: written by a newer version, or by another architecture than this program knows.
    """
    path = Path(path)
    manifest = read_manifest(path)
    with _named(path, "tokenizer"):
        tokenizer = unpack_tokenizer(read_section(path, "tokenizer"))
    with _named(path, "manifest"):
        model = _empty_model(manifest)
    targets = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    missing = {n for n, _ in model.named_parameters()} - set(manifest["tied"])
    for name, tensor in read_tensors(path):
        with _named(path, f"tensor/{name}"), torch.no_grad():
            if targets[name].shape != tensor.shape:
                raise ValueError(f"shape {tuple(tensor.shape)}, the model has {tuple(targets[name].shape)}")
            targets[name].copy_(tensor)
        missing.discard(name)
    if missing:
        raise ArtifactCorrupt(f"{path}: section tensors: {sorted(missing)} are missing")
    with _named(path, "manifest"):
        _attach_ternary(model, manifest["ternary"])
    model.train(False)
    return model, tokenizer


def _empty_model(manifest: Mapping[str, Any]) -> PreTrainedModel:
    """The architecture in fp32 without the cost of random initialization."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights

    import agent_forge.model  # noqa: F401  registers the Cognate architecture

    config = AutoConfig.for_model(**manifest["config"])
    with no_init_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.tie_weights()
    if manifest["generation"] is not None:
        model.generation_config = GenerationConfig.from_dict(dict(manifest["generation"]))
    return model


def _attach_ternary(model: PreTrainedModel, sidecar: Mapping[str, Any] | None) -> None:
    """Ternary layers round their activations; the sidecar says which layers those are."""
    if sidecar is None:
        return
    import tempfile

    from agent_forge.model import ternary

    with tempfile.TemporaryDirectory() as folder:
        ternary.write_sidecar(Path(folder), sidecar)
        ternary.attach(model, Path(folder))


def _payloads(section: str, blob: bytes, tensors: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], bytes]]:
    """(name, entry, payload) of the tensors in a section."""
    if section.startswith("tensor/"):
        name = section.removeprefix("tensor/")
        yield name, tensors[name], blob
    elif section == "tensors/small":
        for name, entry in tensors.items():
            if "offset" in entry:
                yield name, entry, blob[entry["offset"] : entry["offset"] + entry["bytes"]]


def _decode(entry: Mapping[str, Any], payload: bytes, shared: Mapping[str, bytes]) -> Tensor:
    if len(payload) != entry["bytes"]:
        raise ValueError(f"{len(payload)} bytes, {entry['bytes']} were expected")
    used = tuple(entry["shared"])
    encoded = Encoded(entry["codec"], tuple(entry["shape"]), entry["dtype"], entry["header"], payload, used)
    return codecs.decode(encoded, shared)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, dict[str, Any]]]:
    """The file behind its manifest, and the manifest."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ArtifactMissing(f"{path} does not exist") from None
    with file:
        size = path.stat().st_size
        header = file.read(_HEADER_BYTES)
        if header[:8] != MAGIC[: len(header)] or not header:
            raise ArtifactCorrupt(f"{path}: section header: this is not a .forge file")
        if len(header) < _HEADER_BYTES or header[-8:] != hashlib.sha256(header[:-8]).digest()[:8]:
            raise ArtifactCorrupt(f"{path}: section header: truncated or altered")
        _, version, length, digest = _HEADER.unpack(header[:-8])
        if version > VERSION:
            raise HandoffError(f"{path} has format version {version}, this program reads {VERSION}; update it")
        packed = file.read(length) if length <= min(size, _MANIFEST_LIMIT) else b""
        if hashlib.sha256(packed).digest() != digest:
            raise ArtifactCorrupt(f"{path}: section manifest: truncated or altered ({len(packed)} of {length} bytes)")
        with _named(path, "manifest"):
            manifest = json.loads(decompress_bytes(packed, limit=_MANIFEST_LIMIT))
            expected = _HEADER_BYTES + length + sum(int(entry[1]) for entry in manifest["sections"])
        if size != expected:
            last = manifest["sections"][-1][0]
            raise ArtifactCorrupt(
                f"{path}: section {_cut(manifest, size - _HEADER_BYTES - length) or last}: "
                f"the file has {size} bytes, {expected} were written"
            )
        yield file, manifest


def _cut(manifest: Mapping[str, Any], available: int) -> str | None:
    """The first section that ``available`` bytes do not reach the end of."""
    for name, length, _ in manifest["sections"]:
        available -= length
        if available < 0:
            return str(name)
    return None


def _sections(path: Path, file: BinaryIO, manifest: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    for name, length, digest in manifest["sections"]:
        blob = file.read(length)
        if len(blob) != length or _digest(blob) != digest:
            raise ArtifactCorrupt(f"{path}: section {name}: digest {_digest(blob)} differs from {digest} as written")
        yield name, blob


@contextmanager
def _named(path: Path, section: str) -> Iterator[None]:
    """What cannot be read becomes `ArtifactCorrupt` with the section's name."""
    try:
        yield
    except _BAD_VALUES as error:
        raise ArtifactCorrupt(f"{path}: section {section} cannot be read: {error}") from error


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()[:32]

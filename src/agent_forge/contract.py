"""The contract of the house: what flows between phases, and what a phase may ask of the world.

A phase takes artifacts by name and gives artifacts by name. It sees neither the registry nor
another phase. This module imports no torch, so that planning and listing stay instant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Kind: TypeAlias = Literal["corpus", "checkpoint", "checkpoints", "bundle", "agent_file"]
"""What an artifact is.

- ``corpus``: a folder written by ``agent_forge.data.corpora``.
- ``checkpoint``: a folder that ``AutoModelForCausalLM.from_pretrained`` loads.
- ``checkpoints``: a tuple of those.
- ``bundle``: a folder that runs without PyTorch: an ONNX graph, tokenizer and what the agent brings.
- ``agent_file``: one ``.forge`` file in a folder.

In ``Phase.consumes`` a trailing ``?`` marks an optional input.
"""

ONNX_MANIFEST = "onnx.json"
"""The file beside an exported graph that says what it is; a folder with it and without weights is an export."""

THINK, END_THINK = "<think>", "</think>"
"""The tokens around a thought: phase 3 teaches them, every later phase, the agent and the evaluation know them."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A handle on immutable bytes: never weights in memory.

    Attributes:
        kind: what it is.
        files: relative path → (sha256, size in bytes).
        facts: what is known about it (phase, parents' digests, seeds, metrics). Facts are not part of
            the digest: equal bytes are the same artifact.
    """

    kind: str
    files: Mapping[str, tuple[str, int]]
    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """sha256 over kind and files."""
        return digest_of({"kind": self.kind, "files": {name: list(entry) for name, entry in self.files.items()}})

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of all files."""
        return sum(size for _, size in self.files.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is the inverse."""
        files = {name: list(entry) for name, entry in self.files.items()}
        return {"kind": self.kind, "files": files, "facts": dict(self.facts)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Artifact:
        """The inverse of `to_json`."""
        files = {name: (str(entry[0]), int(entry[1])) for name, entry in value["files"].items()}
        return cls(value["kind"], files, dict(value["facts"]))


Artifacts: TypeAlias = Mapping[str, "Artifact | tuple[Artifact, ...]"]
"""Artifacts by handoff name; a tuple where the kind is plural."""


def one(artifacts: Artifacts, name: str) -> Artifact:
    """The single artifact of that name (TypeError if it is a tuple)."""
    value = artifacts[name]
    if not isinstance(value, Artifact):
        raise TypeError(f"handoff {name!r} is a tuple of {len(value)} artifacts, one was expected")
    return value


def many(artifacts: Artifacts, name: str) -> tuple[Artifact, ...]:
    """The artifacts of that name, always as a tuple."""
    value = artifacts[name]
    return (value,) if isinstance(value, Artifact) else tuple(value)


@dataclass(frozen=True)
class Budget:
    """What a phase may use. Seconds of wall-clock, bytes of resident memory; None = no limit."""

    seconds: float | None = None
    bytes: int | None = None


class Context(Protocol):
    """All that a phase may ask of the world. Tests use `agent_forge.pipeline.memory_context`."""

    seed: int
    device: str
    budget: Budget
    scratch: Path
    """A folder of this phase run for temporary files; emptied after success."""

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator seeded by (seed, name): equal names give equal streams."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Curves: one row per step. Never blocks, never raises for a full disk."""
        ...

    def progress(self, done: float, total: float, note: str = "") -> None:
        """How far the phase is; shown to the user."""
        ...

    def report(self, measured: Mapping[str, float]) -> None:
        """Figures that gates read, measured on the test split. Later calls add to earlier ones."""
        ...

    def warn(self, failure: str, message: str, **evidence: float) -> None:
        """An entry of the premortem was seen (`failure` is its id, e.g. "C1"): shown and recorded."""
        ...

    def attach(self, name: str, value: Any) -> None:
        """JSON for the report page (fitness by generation, ladder, samples). Replaces an earlier one."""
        ...

    def path(self, artifact: Artifact) -> Path:
        """A read-only folder holding the files of ``artifact``, digests checked."""
        ...

    def load_model(self, artifact: Artifact) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Model (fp32, on ``device``, eval mode) and tokenizer of a checkpoint artifact."""
        ...

    def save_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **facts: Any) -> Artifact:
        """A checkpoint artifact, durable when this returns. ``facts`` also go into forge.json."""
        ...

    def save_folder(self, kind: Kind, folder: Path, **facts: Any) -> Artifact:
        """Any folder as an artifact (moved, so ``folder`` is gone afterwards)."""
        ...

    def checkpoint(self, state: Mapping[str, Any], step: int) -> None:
        """Saves a nested mapping of tensors, numbers and strings so that a killed run can go on."""
        ...

    def restore(self) -> tuple[dict[str, Any], int] | None:
        """The newest intact state of this phase run with its step, or None."""
        ...

    def should_stop(self) -> bool:
        """True after the first Ctrl-C: save with `checkpoint` and raise `Interrupted`."""
        ...


@dataclass(frozen=True)
class Declaration:
    """What a phase says of itself. It stands in the phase's package, which imports no torch, so planning is instant.

    Attributes:
        version: raised when equal inputs would give other outputs.
        consumes: handoff name → kind; a trailing ``?`` marks an optional input.
        produces: handoff name → kind.
    """

    name: str
    version: int
    consumes: Mapping[str, str]
    produces: Mapping[str, str]


C = TypeVar("C", contravariant=True)


@runtime_checkable
class Phase(Protocol[C]):
    """One link of the chain. A class with these attributes and a ``run``; built without arguments."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised when equal inputs would give other outputs."""
    consumes: ClassVar[Mapping[str, str]]
    produces: ClassVar[Mapping[str, str]]

    def run(self, config: C, inputs: Artifacts, context: Context) -> Artifacts:
        """Does the work; raises ``ForgeError`` or ``ValueError`` when it cannot."""
        ...


def digests(artifacts: Sequence[Artifact]) -> list[str]:
    """The digests, in order."""
    return [artifact.digest for artifact in artifacts]

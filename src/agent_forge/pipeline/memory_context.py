"""A Context without registry, sessions or processes: for tests and for phases used alone.

It is real: models are saved to and loaded from folders, digests are digests of bytes.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_forge.contract import Artifact, Budget, Kind

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_folder(kind: str, folder: Path, facts: Mapping[str, Any]) -> Artifact:
    """The artifact that a folder holds: every file below it with digest and size."""
    files = {
        path.relative_to(folder).as_posix(): (file_digest(path), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return Artifact(kind, files, dict(facts))


def named_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator seeded by (seed, name), independent of call order."""
    import torch

    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class MemoryContext:
    """See `agent_forge.contract.Context`.

    Attributes:
        logged: every (step, metrics) that was logged.
        measured: what was reported for the gates.
        warnings: (failure id, message, evidence) in order.
        attachments: JSON for the report page, by name.
        states: (step, state) of every checkpoint, newest last.
    """

    def __init__(self, folder: Path, *, seed: int = 0, device: str = "cpu", budget: Budget | None = None) -> None:
        self.folder, self.seed, self.device = folder, seed, device
        self.budget = budget or Budget()
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.measured: dict[str, float] = {}
        self.warnings: list[tuple[str, str, dict[str, float]]] = []
        self.attachments: dict[str, Any] = {}
        self.states: list[tuple[int, dict[str, Any]]] = []
        self.stopping = False
        self._paths: dict[str, Path] = {}

    def generator(self, name: str) -> torch.Generator:
        """See Context."""
        return named_generator(self.seed, name)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See Context."""
        self.logged.append((step, {key: float(value) for key, value in metrics.items()}))

    def progress(self, done: float, total: float, note: str = "") -> None:
        """See Context; nobody looks."""

    def report(self, measured: Mapping[str, float]) -> None:
        """See Context."""
        self.measured.update({key: float(value) for key, value in measured.items()})

    def warn(self, failure: str, message: str, **evidence: float) -> None:
        """See Context."""
        self.warnings.append((failure, message, evidence))

    def attach(self, name: str, value: Any) -> None:
        """See Context."""
        self.attachments[name] = value

    def adopt(self, kind: Kind, folder: Path, **facts: Any) -> Artifact:
        """Makes a folder that already exists an artifact, where it lies."""
        artifact = describe_folder(kind, folder, facts)
        self._paths[artifact.digest] = folder
        return artifact

    def path(self, artifact: Artifact) -> Path:
        """See Context."""
        return self._paths[artifact.digest]

    def load_model(self, artifact: Artifact) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """See Context."""
        from agent_forge.model.checkpoint import load_model

        return load_model(self.path(artifact), device=self.device)

    def save_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **facts: Any) -> Artifact:
        """See Context."""
        from agent_forge.model.checkpoint import save_model

        folder = self.scratch / f"saved-{len(self._paths)}"
        save_model(model, tokenizer, folder, facts)
        return self.save_folder("checkpoint", folder, **facts)

    def save_folder(self, kind: Kind, folder: Path, **facts: Any) -> Artifact:
        """See Context."""
        artifact = describe_folder(kind, folder, facts)
        target = self.folder / "artifacts" / artifact.digest
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(str(folder), target)
        self._paths[artifact.digest] = target
        return artifact

    def checkpoint(self, state: Mapping[str, Any], step: int) -> None:
        """See Context; a deep copy, so later training does not change it."""
        self.states.append((step, copy.deepcopy(dict(state))))

    def restore(self) -> tuple[dict[str, Any], int] | None:
        """See Context."""
        if not self.states:
            return None
        step, state = self.states[-1]
        return copy.deepcopy(state), step

    def should_stop(self) -> bool:
        """See Context; tests set `stopping`."""
        return self.stopping

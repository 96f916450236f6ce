"""The Context that a phase sees inside its own process: blobs, curves, states, and a pipe to the runner."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from agent_forge.contract import Artifact, Budget, Kind
from agent_forge.errors import SessionBusy
from agent_forge.pipeline.memory_context import named_generator
from agent_forge.storage.checkpoints import load_newest, save_state
from agent_forge.storage.home import Home
from agent_forge.tracking.local_store import LocalStore

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from agent_forge.pipeline.worker import WorkOrder

_PROGRESS_SECONDS = 0.2


class WorkerContext:
    """See `agent_forge.contract.Context`.

    The scratch folder belongs to the fingerprint of the phase run, so a run that was killed goes on
    from its last state, and one with another configuration does not.
    """

    def __init__(self, order: WorkOrder, connection: Connection) -> None:
        self._order, self._connection = order, connection
        self._stopping = False
        self._home = Home.open(order.home)
        self._folder = self._home.scratch_folder(order.session, order.phase, order.fingerprint)
        self.seed, self.device = order.seed, order.device
        self.budget = Budget(order.seconds, order.memory_bytes)
        self.scratch = self._folder / "work"
        self.measured: dict[str, float] = {}
        self.attachments: dict[str, Any] = {}
        self.warnings: list[dict[str, Any]] = []
        self._lock = FileLock(self._folder / "lock")
        self._tracker = LocalStore(self._home.metrics_path(order.session, order.phase, order.fingerprint))
        self._last_progress = 0.0

    def __enter__(self) -> WorkerContext:
        try:
            # A child of a runner that was just killed may need a moment to notice.
            self._lock.acquire(timeout=15)
        except Timeout:
            raise SessionBusy(
                f"another process is computing the same {self._order.phase} (lock {self._folder / 'lock'}); "
                "wait for it, or end it"
            ) from None
        shutil.rmtree(self.scratch, ignore_errors=True)  # left over by a killed run; states lie beside it
        self.scratch.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tracker.close()
        self._lock.release()

    def finish(self) -> None:
        """Work files are no longer needed; the states stay until the result is committed."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def generator(self, name: str) -> torch.Generator:
        """See Context."""
        return named_generator(self.seed, name)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See Context; the latest row also goes to whoever watches."""
        self._tracker.log(step, metrics)
        self._say("log", {"step": step, "metrics": {key: float(value) for key, value in metrics.items()}}, often=True)

    def progress(self, done: float, total: float, note: str = "") -> None:
        """See Context."""
        self._say("progress", {"done": done, "total": total, "note": note}, often=done < total)

    def report(self, measured: Mapping[str, float]) -> None:
        """See Context."""
        self.measured.update({key: float(value) for key, value in measured.items()})

    def warn(self, failure: str, message: str, **evidence: float) -> None:
        """See Context."""
        entry = {"failure": failure, "message": message, "evidence": evidence}
        self.warnings.append(entry)
        self._say("warning", entry)

    def attach(self, name: str, value: Any) -> None:
        """See Context."""
        self.attachments[name] = value

    def path(self, artifact: Artifact) -> Path:
        """See Context."""
        return self._home.blobs.view(artifact)

    def load_model(self, artifact: Artifact) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """See Context."""
        from agent_forge.model.checkpoint import load_model

        return load_model(self.path(artifact), device=self.device)

    def save_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **facts: Any) -> Artifact:
        """See Context."""
        from agent_forge.model.checkpoint import save_model

        folder = self.scratch / "saving"
        shutil.rmtree(folder, ignore_errors=True)
        save_model(model, tokenizer, folder, facts)
        return self.save_folder("checkpoint", folder, **facts)

    def save_folder(self, kind: Kind, folder: Path, **facts: Any) -> Artifact:
        """See Context."""
        artifact = self._home.blobs.put_folder(kind, folder, facts, "move")
        shutil.rmtree(folder, ignore_errors=True)
        return artifact

    def checkpoint(self, state: Mapping[str, Any], step: int) -> None:
        """See Context."""
        save_state(self._folder / "states", state, step, keep=self._order.keep_states)

    def restore(self) -> tuple[dict[str, Any], int] | None:
        """See Context."""
        found = load_newest(self._folder / "states")
        if found is None:
            return None
        state, step = found
        self._say("resumed", {"step": step})
        return dict(state), step

    def should_stop(self) -> bool:
        """See Context; the runner says it through the pipe."""
        while not self._stopping and self._connection.poll():
            self._stopping = self._connection.recv() == "stop"
        return self._stopping

    def _say(self, kind: str, payload: Mapping[str, Any], *, often: bool = False) -> None:
        """Sends an event; frequent ones at most five times a second, so that watching costs nothing."""
        now = time.monotonic()
        if often and now - self._last_progress < _PROGRESS_SECONDS:
            return
        if often:
            self._last_progress = now
        self._connection.send((kind, dict(payload)))

"""One phase in one process of its own.

A fork server imports torch and transformers once; each phase is a fork of it. So a time limit can
really end a phase, its memory is really returned, and running out of memory takes down that phase
alone. If the parent dies, the child ends itself: nobody would take its result. Reading the sources needs no torch:
that step is an interpreter of its own, at work while the fork server imports.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from agent_forge.contract import Artifact, Artifacts
from agent_forge.errors import DiskFull, ForgeError, OutOfMemory
from agent_forge.pipeline.ingest import INGEST

_PRELOAD = "agent_forge.pipeline.preload"
MEMORY_EXIT = 77
"""Exit status of a child that ran out of memory and could still say so."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as malloc.h of glibc numbers them


@dataclass(frozen=True)
class WorkOrder:
    """All that a child needs, as plain values."""

    home: Path
    session: str
    phase: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    fingerprint: str
    seed: int
    device: str
    threads: int
    seconds: float
    memory_bytes: int
    keep_states: int
    handoffs: tuple[str, ...]


def artifacts_to_json(artifacts: Artifacts) -> dict[str, Any]:
    """Plain values of a handoff mapping."""
    return {
        name: value.to_json() if isinstance(value, Artifact) else [artifact.to_json() for artifact in value]
        for name, value in artifacts.items()
    }


def artifacts_from_json(values: Mapping[str, Any]) -> dict[str, Artifact | tuple[Artifact, ...]]:
    """The inverse of `artifacts_to_json`."""
    return {
        name: tuple(Artifact.from_json(item) for item in value)
        if isinstance(value, list)
        else Artifact.from_json(value)
        for name, value in values.items()
    }


class Child:
    """A running phase: its process and the parent's end of its pipe."""

    def __init__(self, order: WorkOrder) -> None:
        with _born_deaf():
            context = _context(order.phase)
            self.connection, theirs = context.Pipe()
            self.process: BaseProcess = context.Process(
                target=_main, args=(order, theirs), name=f"agent-forge {order.phase}"
            )
            self.process.start()
            theirs.close()

    def ask_to_stop(self) -> None:
        """The phase saves its state and stops at its next look (`Context.should_stop`)."""
        with contextlib.suppress(OSError):  # it may just have ended by itself
            self.connection.send("stop")

    def end(self, grace_seconds: float = 3.0) -> None:
        """Ends the process: politely, then for certain."""
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(grace_seconds)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.connection.close()


@contextlib.contextmanager
def _born_deaf() -> Iterator[None]:
    """Interpreters that are started here hear no Ctrl-C from their first instruction: the parent decides what it means.

    One that came while they import would end them with a traceback. It is held back, not ignored: the parent hears one
    that comes meanwhile afterwards. (Only the main thread is sent a Ctrl-C.)
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # it would let signals through again when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _context(phase: str) -> ForkServerContext | SpawnContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOAD])
    if phase != INGEST.name:
        return context
    forkserver.ensure_running()
    return multiprocessing.get_context("spawn")


def _main(order: WorkOrder, connection: Connection) -> None:
    """Body of the child; everything that it raises goes through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        result = _run(order, connection)
    except (MemoryError, OutOfMemory) as error:
        connection.send(("error", _describe("OutOfMemory", error)))
        os._exit(MEMORY_EXIT)
    except Exception as error:  # noqa: BLE001 - the border of the process: nothing may be lost
        kind = type(error).__name__
        if isinstance(error, RuntimeError) and "memory" in str(error).lower():
            kind = "OutOfMemory"
        if _is_full_disk(error):
            kind = DiskFull.__name__
        connection.send(("error", _describe(kind, error)))
    else:
        connection.send(("result", result))
    connection.close()


def _is_full_disk(error: BaseException) -> bool:
    """No room, quota or file size limit reached; libraries in Rust and C++ only say so in words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(f"os error {number}" in str(error) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def _describe(kind: str, error: BaseException) -> dict[str, Any]:
    return {
        "kind": kind,
        "message": str(error) or kind,
        "expected": isinstance(error, ForgeError),
        "exit_code": getattr(error, "exit_code", 4),
        "traceback": "".join(traceback.format_exception(error)),
    }


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _keep_freed_memory() -> None:
    """Lets glibc reuse large blocks instead of giving each back: fresh pages cost a tenth of a training step.

    The process ends with its phase, so nothing is kept for longer. Other C libraries have no such switch.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _run(order: WorkOrder, connection: Connection) -> dict[str, Any]:
    from agent_forge.pipeline.context import WorkerContext
    from agent_forge.pipeline.handoffs import check_handoffs
    from agent_forge.pipeline.plan import load_step

    if order.phase != INGEST.name:
        _prepare_torch(order.threads)
    phase = load_step(order.phase)
    inputs = artifacts_from_json(order.inputs)
    with WorkerContext(order, connection) as context:
        config = phase_config(order.phase, order.config)
        outputs = phase.run(config, inputs, context)
        check_handoffs(order.handoffs, outputs, context)
        context.finish()
        return {
            "outputs": artifacts_to_json(outputs),
            "measured": context.measured,
            "attachments": context.attachments,
            "warnings": context.warnings,
        }


def _prepare_torch(threads: int) -> None:
    import torch
    from tqdm import tqdm
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the runner shows progress; bars of saving and loading would break its lines
    # its own lock is a named semaphore: of a process that is ended it stays, and Python warns behind our last line
    tqdm.set_lock(threading.RLock())
    _keep_freed_memory()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # every new tensor would be written twice
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def phase_config(name: str, values: Mapping[str, Any]) -> Any:
    """The configuration object of a phase from its plain values."""
    from agent_forge.config import ForgeConfig

    annotation: Any = ForgeConfig.model_fields[name].annotation
    return annotation.model_validate(dict(values))

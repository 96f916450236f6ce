"""Everything that Agent Forge raises on purpose.

```
ForgeError                     exit code 4 unless said otherwise
├── ConfigError                2  a key, a value or a preset that cannot be
├── PlanError                  2  the chain of phases does not fit together
├── DataError                  2  text that cannot be used: empty, binary, missing
├── HandoffError               2  checkpoints that do not fit together
├── GateFailed                 3  a measured condition that does not hold
├── PhaseFailed                4  a phase raised, and no fallback was declared
│   ├── PhaseTimeout           4
│   └── OutOfMemory            4
├── DiskFull                   4
├── SessionBusy                4  another process holds the session
├── SessionNotFound            2
├── ModelNotFound              2  a reference that names no checkpoint, artifact, session or file
├── HomeTooNew                 2  a home written by a newer version
├── HomeReadOnly               2
├── ArtifactMissing            5  a registered file that is not on disk
├── ArtifactCorrupt            5  bytes that differ from their digest
└── Interrupted              130  stopped by the user; resumable
```

Algorithms raise ``ValueError`` with the offending values; the rooms around them translate where
that helps the user. Messages say what was given, what was expected and what to do.
"""

from __future__ import annotations


class ForgeError(Exception):
    """The root: one readable sentence, and the exit code of the command line."""

    exit_code = 4


class ConfigError(ForgeError):
    """A key, a value or a preset that cannot be."""

    exit_code = 2


class PlanError(ForgeError):
    """The chain of phases does not fit together; found before the first step."""

    exit_code = 2


class DataError(ForgeError):
    """Text that cannot be used: empty, binary, missing or unreadable."""

    exit_code = 2


class HandoffError(ForgeError):
    """Checkpoints that do not fit together: shapes, names, tokenizers, not-a-number."""

    exit_code = 2


class GateFailed(ForgeError):
    """A measured condition that does not hold."""

    exit_code = 3

    def __init__(self, gate: str, measured: float | None, bound: str) -> None:
        self.gate, self.measured, self.bound = gate, measured, bound
        value = "was not measured" if measured is None else f"is {measured:.4g}"
        super().__init__(f"gate {gate} failed: it {value}, and must be {bound}")


class PhaseFailed(ForgeError):
    """A phase raised and no fallback was declared."""

    def __init__(self, phase: str, step: int | None, reason: str) -> None:
        self.phase, self.step, self.reason = phase, step, reason
        where = "" if step is None else f" at step {step}"
        super().__init__(f"phase {phase} failed{where}: {reason}")


class PhaseTimeout(PhaseFailed):
    """A phase ran longer than its limit and was ended."""


class OutOfMemory(PhaseFailed):
    """A phase needed more memory than it was given."""


class DiskFull(ForgeError):
    """No room for the next file; nothing committed is lost."""


class SessionBusy(ForgeError):
    """Another live process holds the session."""


class SessionNotFound(ForgeError):
    """No session of that name in this home."""

    exit_code = 2


class ModelNotFound(ForgeError):
    """A reference that names no checkpoint folder, artifact, session or .forge file."""

    exit_code = 2


class HomeTooNew(ForgeError):
    """The home was written by a newer version of Agent Forge."""

    exit_code = 2


class HomeReadOnly(ForgeError):
    """The home cannot be written to."""

    exit_code = 2


class ArtifactMissing(ForgeError):
    """A registered file is not on disk."""

    exit_code = 5


class ArtifactCorrupt(ForgeError):
    """Bytes on disk differ from their digest."""

    exit_code = 5


class Interrupted(ForgeError):
    """Stopped by the user after a checkpoint; `agent-forge resume` goes on."""

    exit_code = 130

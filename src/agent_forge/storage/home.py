"""A home: the one folder that holds everything Agent Forge knows.

```
HOME/
├── VERSION       format of this folder
├── registry.db   facts (and registry.db.lock, the write lock)
├── blobs/        bytes, by digest
├── views/        read-only folders of hard links, one per artifact
├── sessions/     one folder per session: lock, phase folders with links to what each gave
├── metrics/      curves, one SQLite file per phase run
└── scratch/      states of running phases; may be deleted when nothing runs
```
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from agent_forge.contract import Artifact
from agent_forge.errors import ConfigError, HomeReadOnly, HomeTooNew
from agent_forge.storage import durable
from agent_forge.storage.blobs import Blobs, remove_folder
from agent_forge.storage.occupancy import Occupancy, occupy
from agent_forge.storage.registry import Registry

FORMAT = 1
"""Raised when an older version could not read the folder any more."""
Made: TypeAlias = Literal["nothing", "content", "folder"]
"""What opening had to make: nothing, the content of a folder that was there, or the folder too."""
_FOLDERS = ("blobs", "views", "sessions", "metrics", "scratch")


class Home:
    """An open home; `Home.open` makes one.

    Attributes:
        path: the folder.
        registry: the facts.
        blobs: the bytes.
        swept: temporary files of dead processes that opening removed.
    """

    def __init__(
        self, path: Path, registry: Registry, blobs: Blobs, swept: Sequence[Path], occupancy: Occupancy, made: Made
    ) -> None:
        self.path, self.registry, self.blobs, self.swept = path, registry, blobs, tuple(swept)
        self._occupancy, self._made = occupancy, made

    @classmethod
    def open(
        cls,
        path: str | Path,
        create: bool = True,
        *,
        reserve_bytes: int = durable.DEFAULT_RESERVE_BYTES,
        database_url: str | None = None,
    ) -> Home:
        """Opens the home at ``path``: migrates its registry and removes what dead processes left half-written.

        Args:
            path: the folder.
            create: make it when it is not there.
            reserve_bytes: free space that every save must leave.
            database_url: another database than ``registry.db``, for example PostgreSQL.

        Raises:
            ConfigError: there is no home, and ``create`` is false.
            HomeTooNew: a newer version wrote it; nothing was changed.
            HomeReadOnly: it cannot be written to.
        """
        path = Path(path).expanduser().absolute()
        if not create and not (path / "VERSION").is_file():
            raise ConfigError(f"there is no home at {path}; `agent-forge run --home {path}` makes one")
        _check_format(path / "VERSION")
        made: Made = "nothing" if (path / "VERSION").is_file() else "content" if path.is_dir() else "folder"
        with contextlib.ExitStack() as undo:
            try:
                with durable.disk_errors(path):
                    occupancy = occupy(path)
                    undo.callback(occupancy.leave)
                    for name in _FOLDERS:
                        durable.make_folder(path / name)
                    swept = sweep(path)
                    # Also when it is there: a home that cannot be written is refused now, not after an hour of work.
                    durable.publish_bytes(path / "VERSION", f"{FORMAT}\n".encode())
            except (NotADirectoryError, FileExistsError, FileNotFoundError) as error:
                raise HomeReadOnly(f"{path} cannot be a home: {error.strerror}; choose another --home") from error
            blobs = Blobs(path / "blobs", path / "views", reserve_bytes=reserve_bytes)
            registry = Registry(database_url or f"sqlite:///{path / 'registry.db'}", blobs)
            undo.pop_all()
        return cls(path, registry, blobs, swept, occupancy, made)

    def close(self) -> None:
        """Closes the registry."""
        self.registry.close()
        self._occupancy.leave()

    def close_unused(self) -> None:
        """Closes; and if this opening made the home, and nothing was stored, and nobody else is here: takes it away."""
        removable = self._made != "nothing" and self._occupancy.alone()  # asked first: from here on nobody comes in
        removable = removable and not self.registry.sessions() and not self.registry.artifacts(limit=1)
        self.registry.close()
        if removable:
            for name in _FOLDERS:
                remove_folder(self.path / name)
            for file in (*self.path.glob("registry.db*"), self.path / "VERSION"):
                file.unlink(missing_ok=True)
            if self._made == "folder" and not any(self.path.iterdir()):
                self.path.rmdir()
        self._occupancy.leave()

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def session_folder(self, session: str) -> Path:
        """``sessions/<session>/``, made when it is not there."""
        folder = self.path / "sessions" / session
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def phase_folder(self, session: str, position: int, phase: str) -> Path:
        """``sessions/<session>/phase<position>_<phase>/``; ``position`` counts from 1 in the order of the phases."""
        folder = self.session_folder(session) / f"phase{position}_{phase}"
        folder.mkdir(exist_ok=True)
        return folder

    def link_outputs(self, session: str, position: int, phase: str, outputs: Mapping[str, Sequence[Artifact]]) -> Path:
        """Shows what a phase gave in its phase folder, as relative links to views; replaces older links."""
        folder = self.phase_folder(session, position, phase)
        for name, artifacts in outputs.items():
            for index, artifact in enumerate(artifacts):
                link = folder / (name if len(artifacts) == 1 else f"{name}_{index + 1}")
                temporary = durable.temporary_path(folder)
                temporary.symlink_to(Path("../../..") / self.blobs.view(artifact).relative_to(self.path))
                temporary.replace(link)
        return folder

    def scratch_folder(self, session: str, phase: str, fingerprint: str) -> Path:
        """Where a phase run keeps states and temporary files; the same for every attempt at one fingerprint."""
        folder = self.path / "scratch" / session / f"{phase}-{fingerprint[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_scratch(self, session: str, phase: str | None = None) -> None:
        """Removes what finished phase runs of a session left in scratch."""
        for folder in (self.path / "scratch" / session).glob("*" if phase is None else f"{phase}-*"):
            remove_folder(folder)

    def metrics_path(self, session: str, phase: str, fingerprint: str) -> Path:
        """The file of curves of a phase run; the same for every attempt at one fingerprint."""
        folder = self.path / "metrics" / session
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{phase}-{fingerprint[:12]}.db"

    def forget_session_files(self, session: str) -> None:
        """Removes the folders of a session that the registry no longer knows."""
        for room in ("sessions", "scratch", "metrics"):
            folder = self.path / room / session
            if folder.is_dir():
                shutil.rmtree(folder)


def temporary_files(path: Path) -> Iterable[Path]:
    """Every temporary file or folder of a home, whoever owns it."""
    pattern = f"{durable.TEMPORARY_PREFIX}*"
    places = [path, path / "blobs", path / "views", *(path / "blobs").glob("??")]
    for place in places:
        yield from place.glob(pattern)
    for room in ("sessions", "scratch"):
        yield from (path / room).rglob(pattern)


def sweep(path: Path) -> list[Path]:
    """Removes temporary files that no live process owns, and returns them."""
    now, swept = time.time(), []
    for temporary in temporary_files(path):
        if durable.is_orphan(temporary, now):
            if temporary.is_dir() and not temporary.is_symlink():
                remove_folder(temporary)
            else:
                temporary.unlink(missing_ok=True)
            swept.append(temporary)
    return swept


def _check_format(version: Path) -> None:
    try:
        text = version.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return
    if not text.isdigit():
        raise ConfigError(f"{version} holds {text[:40]!r}, not a format number; this is no home of Agent Forge")
    if int(text) > FORMAT:
        raise HomeTooNew(
            f"the home {version.parent} has format {text}, this version knows up to {FORMAT}; "
            "install the newer Agent Forge, or choose another --home"
        )

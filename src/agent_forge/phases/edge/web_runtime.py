"""onnxruntime-web, which runs the graph in a browser: fetched from npm when a page is made, never part of this project.

One version is known, by name and by the digest of its archive, so every export of this version of the program holds
the same runtime. The archive stays in the user's cache: only the first export needs a network. Its licence is not in
the npm package; it comes from the Python package of the same project.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import platformdirs

from agent_forge.errors import ConfigError

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
MODULE, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
"""The part of the package that runs on the processor, and nothing else of it."""
LICENCES = ("LICENSE", "ThirdPartyNotices.txt")
_SECONDS = 600


def runtime_files(cache: Path | None = None) -> dict[str, bytes]:
    """The runtime: `MODULE`, `BINARY` and `LICENCES` → bytes.

    Args:
        cache: folder that keeps the archive; None = that of the user.

    Raises:
        ConfigError: npm or the extra ``edge`` is missing, the package cannot be had, or it is not the known one.
    """
    licences = _licences()
    archive = runtime_archive(cache)
    with tarfile.open(archive) as opened:
        found = {name: _member(opened, f"package/dist/{name}") for name in (MODULE, BINARY)}
    return found | licences


def runtime_archive(cache: Path | None = None) -> Path:
    """The archive of the package, from the cache or from npm.

    Raises:
        ConfigError: as `runtime_files`.
    """
    folder = cache or Path(platformdirs.user_cache_dir("agent-forge", appauthor=False))
    kept = folder / f"{PACKAGE}-{VERSION}.tgz"
    if kept.is_file() and _is_known(kept):
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as scratch:
        fetched = _fetched(Path(scratch))
        if not _is_known(fetched):
            raise ConfigError(
                f"the {PACKAGE} {VERSION} that npm gave is not the one that this version knows (its sha512 differs)"
            )
        fetched.replace(kept)
    return kept


def need_node() -> str:
    """Where Node.js is: the exported page is tried with it.

    Raises:
        ConfigError: it is not installed.
    """
    node = shutil.which("node")
    if node is None:
        raise ConfigError("node was not found; --to web tries the page with it: install Node.js 20 or newer")
    return node


def _fetched(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(
            f"npm was not found; --to web fetches {PACKAGE} {VERSION} with it once: install Node.js, which brings npm"
        )
    done = subprocess.run(
        [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent"],
        cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False,
    )  # fmt: skip
    found = sorted(folder.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise ConfigError(f"npm could not fetch {PACKAGE} {VERSION}; is there a network? npm said: {said or 'nothing'}")
    return found[0]


def _is_known(path: Path) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").digest() == base64.b64decode(SHA512)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ConfigError(f"{PACKAGE} {VERSION} has no {name}")
    return file.read()


def _licences() -> dict[str, bytes]:
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise ConfigError("the page needs the extra edge: pip install agent-forge[edge]")
    return {name: (Path(spec.origin).parent / name).read_bytes() for name in LICENCES}

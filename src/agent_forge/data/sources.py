"""What to read, as the user writes it: ``[domain=]path[:weight]``.

A path is a file, a folder, a pattern (``stories_*.jsonl.gz``), ``hub:owner/name`` or ``synthetic``. A folder is its
files, one domain for each, unless it has a ``weights.json`` (or ``.yaml``): ``{"domain": {"files": ["pattern", …],
"weight": 30}, …}``.
"""

from __future__ import annotations

import glob
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from agent_forge.data.readers import kind_of, stem_of
from agent_forge.data.synthetic_world import DOMAINS, TOOLS
from agent_forge.errors import DataError

_WEIGHTS = ("weights.json", "weights.yaml", "weights.yml")
_WEIGHT = re.compile(r"^(?P<path>.+):(?P<weight>[0-9.eE+-]+)$")
_DOMAIN = re.compile(r"^(?P<domain>[A-Za-z0-9][A-Za-z0-9_.-]{0,63})=(?P<path>.+)$")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")

KNOWN = (
    ("tinystories*", "stories"),
    ("gsm8k*", "arithmetic"),
    ("wikipedia*", "facts"),
    ("python_stdlib*", "code"),
    ("mbpp*", "code"),
    ("humaneval*", "code"),
    ("codegen*", "code"),
    ("toolformer*", "tools"),
    ("function_calling*", "tools"),
    ("roleplay*", "conversation"),
    ("persona*", "conversation"),
)
"""Names of well-known files, and the domain that they are read under when none is given."""


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to read.

    Attributes:
        path: a file, or None for the hub and the synthetic world.
        domain: what its documents are filed under.
        weight: share of the mixture, any scale; None = by size.
        hub: name on the hub, or "".
    """

    path: Path | None
    domain: str
    weight: float | None = None
    hub: str = ""

    @property
    def name(self) -> str:
        """The file's name (never its folder: what is saved must not depend on the machine)."""
        return self.path.name if self.path is not None else f"hub:{self.hub}" if self.hub else "synthetic"


def expand(written: str, *, each_its_own: bool = False) -> list[Source]:
    """The sources that one argument stands for.

    Args:
        written: ``[domain=]path[:weight]``.
        each_its_own: for held-out files: the domain of a file is its own name, never one of `KNOWN`.

    Raises:
        DataError: nothing is there, the kind of file is unknown, or the weight is not a positive number.
    """
    rest, domain, weight = written, "", None
    if (found := _DOMAIN.match(rest)) and not Path(rest).exists():
        domain, rest = found["domain"], found["path"]
    if (found := _WEIGHT.match(rest)) and not Path(rest).exists():
        rest, weight = found["path"], _weight(found["weight"], written)
    if rest == "synthetic":
        if domain and domain not in DOMAINS:
            raise DataError(f"{written}: the synthetic world has {', '.join(DOMAINS)}, not {domain!r}")
        return [Source(None, domain, weight)]
    if rest.startswith("hub:"):
        name = rest.removeprefix("hub:")
        return [Source(None, domain or _UNSAFE.sub("-", name), weight, hub=name)]
    files = _files(rest)
    listing = Path(rest) if Path(rest).is_dir() else None
    sources = [Source(file, domain or _domain(file, each_its_own)) for file in files]
    if listing and not domain and (declared := _declared(listing)):
        sources = _by_declaration(sources, declared, listing)
    if weight is not None:
        own = sum(source.weight or 1.0 for source in sources)
        sources = [replace(source, weight=weight * (source.weight or 1.0) / own) for source in sources]
    return sources


def expand_all(written: Sequence[str | Source], *, each_its_own: bool = False) -> list[Source]:
    """`expand` for each; every file once.

    Raises:
        DataError: as `expand`, or there is nothing at all.
    """
    sources: list[Source] = []
    for entry in written:
        sources += [entry] if isinstance(entry, Source) else expand(entry, each_its_own=each_its_own)
    if not sources and not each_its_own:
        raise DataError("no data was given; name a file, a folder or `synthetic`")
    return list(dict.fromkeys(sources))


def lack_tools(sources: Sequence[Source]) -> bool:
    """Whether no source is the synthetic world's conversations with tools."""
    return not any(source.name == "synthetic" and source.domain in ("", TOOLS) for source in sources)


def refuse_shared_names(trained: Sequence[Source], held: Sequence[Source]) -> None:
    """Held-out data is a test set of its own, so its name must be too.

    Raises:
        DataError: a held-out source is filed under a domain that is trained on.
    """
    names = {name for source in trained for name in (DOMAINS if _whole_world(source) else (source.domain,))}
    if clash := sorted({source.domain for source in held} & names):
        raise DataError(f"held-out data needs a name of its own, {clash} are domains; write e.g. {clash[0]}-eval=PATH")


def _whole_world(source: Source) -> bool:
    return source.path is None and not source.hub and not source.domain


def _weight(text: str, written: str) -> float:
    try:
        weight = float(text)
    except ValueError as error:
        raise DataError(f"{written}: the weight {text!r} after the colon is not a number") from error
    if not (math.isfinite(weight) and weight > 0):
        raise DataError(f"{written}: the weight {weight} must be positive")
    return weight


def _files(written: str) -> list[Path]:
    path = Path(written)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and kind_of(file))
        if not files:
            raise DataError(f"{path} holds no .txt, .jsonl or .parquet file (each also .gz)")
        return files
    if path.is_file():
        if kind_of(path) is None:
            raise DataError(f"{path}: unknown kind of file; .txt, .jsonl and .parquet are read, each also with .gz")
        return [path]
    if found := [Path(name) for name in sorted(glob.glob(written, recursive=True)) if kind_of(Path(name))]:
        return found
    raise DataError(f"{written} does not exist; give a file, a folder, a pattern, hub:owner/name or synthetic")


def _domain(file: Path, own: bool) -> str:
    stem = stem_of(file)
    if not own:
        for pattern, domain in KNOWN:
            if fnmatch(stem.lower(), pattern):
                return domain
    return _UNSAFE.sub("-", stem).strip("-.") or "text"


def _declared(folder: Path) -> dict[str, Any]:
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(value, dict) or not value:
        raise DataError(f"{path} must be an object: domain → weight, or domain → {{files, weight}}")
    return value


def _by_declaration(sources: list[Source], declared: dict[str, Any], folder: Path) -> list[Source]:
    kept: list[Source] = []
    for domain, entry in declared.items():
        entry = {"weight": entry} if isinstance(entry, int | float) else entry
        if not isinstance(entry, dict) or _UNSAFE.search(domain):
            raise DataError(f"{folder}: the weights' entry {domain!r} must be a number or {{files, weight}}")
        patterns = entry.get("files", [f"{domain}.*"])
        files = [
            s for s in sources if s.path is not None and any(fnmatch(s.path.name, pattern) for pattern in patterns)
        ]
        if not files:
            raise DataError(f"{folder}: no file matches {patterns} of the weights' entry {domain!r}")
        weight = _weight(str(entry.get("weight", 1)), f"{folder} {domain}")
        kept += [replace(source, domain=domain, weight=weight / len(files)) for source in files]
    return kept

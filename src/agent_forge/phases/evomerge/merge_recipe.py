"""What to merge, as data: from keyword arguments or from a YAML file that users of mergekit recognise.

Understood: ``merge_method``, ``base_model``, ``models`` (with ``parameters``), ``slices`` (``sources`` with
``model``, ``layer_range``, ``parameters``), ``parameters``, ``dtype``, ``out_dtype``. A parameter is a value, a
list (a gradient over the layers) or a list of ``{filter, value}``. Ours in addition: ``seed``,
``convention`` (``mergekit`` unless said otherwise, because the YAML is theirs) and ``max_shard_bytes``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_forge.errors import ConfigError
from agent_forge.phases.evomerge.methods import METHODS, Convention, Method

MAX_SHARD_BYTES = 5_000_000_000
_TOP = {
    "merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "tokenizer_source",
    "name", "seed", "convention", "max_shard_bytes",
}  # fmt: skip
_IGNORED = {"int8_mask"}  # how mergekit stores a mask; changes no result


@dataclass(frozen=True)
class Source:
    """Layers [first, last) of a parent; None: all of them. Settings of this parent in this slice."""

    parent: int
    layers: tuple[int, int] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Layers of the result that come from equally many layers of each source."""

    sources: tuple[Source, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A merge as data.

    Attributes:
        method: a name in `METHODS`.
        folders: parents and trunk.
        trunk: which of the folders is the trunk, for methods on task vectors.
        slices: at least one; a merge of whole models is one slice of all layers.
        settings: for all tensors.
        convention: whose defaults.
        dtype: of the result; None keeps the first parent's, tensor by tensor.
        seed: for DARE and DELLA.
        max_shard_bytes: largest file.
    """

    method: str
    folders: tuple[Path, ...]
    slices: tuple[Slice, ...]
    trunk: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    convention: Convention = "paper"
    dtype: str | None = None
    seed: int = 0
    max_shard_bytes: int = MAX_SHARD_BYTES

    @property
    def whole_models(self) -> bool:
        """True if every layer keeps its place."""
        return len(self.slices) == 1 and all(source.layers is None for source in self.slices[0].sources)


def recipe_of_folders(
    parents: Sequence[Path],
    *,
    method: str,
    base: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    convention: Convention = "paper",
    dtype: str | None = None,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Recipe:
    """The recipe of ``merge A B C --base T --method M --set key=value``.

    Args:
        parents: folders; a list under ``weight`` or ``density`` gives one value per parent.
        method: a name in `METHODS`.
        base: the trunk.
        settings: see the table in `METHODS`.
        convention: ``paper`` or ``mergekit``.
        dtype: of the result.
        seed: for random methods.
        max_shard_bytes: largest file.

    Raises:
        ConfigError: unknown method or setting, or a number of parents or values that does not fit.
    """
    settings = dict(settings or {})
    own: list[dict[str, Any]] = [{} for _ in parents]
    for key in ("weight", "density"):
        value = settings.get(key)
        if isinstance(value, (list, tuple)):
            if len(value) != len(parents):
                raise ConfigError(f"{key} has {len(value)} values for {len(parents)} parents")
            for mapping, one in zip(own, value, strict=True):
                mapping[key] = one
            del settings[key]
    folders = [*map(Path, parents)]
    trunk = None
    if base is not None and method_named(method).needs_trunk:
        trunk = len(folders)
        folders.append(Path(base))
    sources = tuple(Source(i, None, mapping) for i, mapping in enumerate(own))
    recipe = Recipe(
        method, tuple(folders), (Slice(sources),), trunk, settings, convention, dtype, seed, max_shard_bytes
    )
    check_recipe(recipe)
    return recipe


def recipe_of_yaml(path: Path) -> Recipe:
    """Reads a recipe; relative folders are relative to the file.

    Raises:
        ConfigError: not YAML, unknown keys, a method or setting that does not exist, nothing to merge.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(document, dict) or "merge_method" not in document:
        raise ConfigError(f"{path}: a mapping with merge_method was expected")
    known("key", document, _TOP)
    if document.get("tokenizer_source") not in (None, "base"):
        raise ConfigError("tokenizer_source: parents must share a tokenizer; only 'base' is understood")
    if ("models" in document) == ("slices" in document):
        raise ConfigError(f"{path}: give models or slices, one of them")
    method = method_named(str(document["merge_method"]))
    folders: list[Path] = []

    def number(name: Any) -> int:
        folder = (path.parent / str(name)).resolve()
        if folder not in folders:
            folders.append(folder)
        return folders.index(folder)

    base = None if document.get("base_model") is None else number(document["base_model"])
    raw_slices = document["slices"] if "slices" in document else [{"sources": document["models"]}]
    slices = tuple(_slice(raw, number, base, method) for raw in raw_slices)
    dtype = document.get("out_dtype") or document.get("dtype")
    recipe = Recipe(
        method.name,
        tuple(folders),
        slices,
        base if method.needs_trunk else None,
        document.get("parameters") or {},
        document.get("convention", "mergekit"),
        dtype,
        int(document.get("seed", 0)),
        int(document.get("max_shard_bytes", MAX_SHARD_BYTES)),
    )
    check_recipe(recipe)
    return recipe


def _slice(raw: Mapping[str, Any], number: Any, base: int | None, method: Method) -> Slice:
    known("key of a slice", raw, {"sources", "parameters"})
    sources = []
    for entry in raw.get("sources") or []:
        known("key of a source", entry, {"model", "layer_range", "parameters"})
        span = entry.get("layer_range")
        layers = None if span is None else (int(span[0]), int(span[1]))
        sources.append(Source(number(entry["model"]), layers, entry.get("parameters") or {}))
    if method.needs_trunk:
        sources = [source for source in sources if source.parent != base]
    elif method.name == "slerp":  # t = 0 is the base model
        sources.sort(key=lambda source: source.parent != base)
    return Slice(tuple(sources), raw.get("parameters") or {})


def method_named(name: str) -> Method:
    """The row of the table.

    Raises:
        ConfigError: no such method, with the nearest names.
    """
    known("merge method", [name], METHODS)
    return METHODS[name]


def check_recipe(recipe: Recipe) -> None:
    """Finds what is wrong before a file is opened.

    Raises:
        ConfigError: settings, parents, layers or convention that cannot be.
    """
    method = method_named(recipe.method)
    known("convention", [recipe.convention], ("paper", "mergekit"))
    if method.needs_trunk and recipe.trunk is None:
        raise ConfigError(f"{method.name} works on task vectors: give the common ancestor (--base or base_model)")
    if not recipe.slices:
        raise ConfigError("there is nothing to merge: slices is empty")
    fewest, most = method.parents
    options = {*method.options, *_IGNORED}
    known(f"setting of {method.name}", recipe.settings, options)
    for part in recipe.slices:
        known(f"setting of {method.name}", part.settings, options)
        if len(part.sources) < fewest or (most is not None and len(part.sources) > most):
            allowed = f"{fewest}" if fewest == most else f"{fewest} or more"
            raise ConfigError(f"{method.name} takes {allowed} parents, {len(part.sources)} were given")
        if len({None if s.layers is None else s.layers[1] - s.layers[0] for s in part.sources}) > 1:
            raise ConfigError(f"the sources of one slice need equally many layers: {[s.layers for s in part.sources]}")
        for source in part.sources:
            known(f"setting of {method.name}", source.settings, options)
    if len(recipe.slices) > 1 and any(s.layers is None for part in recipe.slices for s in part.sources):
        raise ConfigError("every source of a slice needs its layer_range")


def known(what: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Every given word is allowed, or a ConfigError with the nearest one."""
    allowed = sorted(allowed)
    for word in given:
        if word not in allowed:
            near = difflib.get_close_matches(str(word), allowed, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(allowed)}"
            raise ConfigError(f"unknown {what} {word!r}; {hint}")


def resolve(setting: Any, name: str, fraction: float) -> Any:
    """A parameter's value for one tensor.

    Args:
        setting: a value, a list of numbers (gradient) or a list of ``{filter, value}``.
        name: of the tensor; a filter matches when it is part of it, ``*`` or absent.
        fraction: place of the layer in its slice, 0–1.

    Returns:
        The value, or None when no filter matches.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, (list, tuple)) or not setting:
        return setting
    if isinstance(setting[0], Mapping):
        for case in setting:
            pattern = case.get("filter")
            if pattern is None or pattern == "*" or pattern in name:
                return resolve(case["value"], name, fraction)
        return None
    place = fraction * (len(setting) - 1)
    low = int(place)
    high = min(low + 1, len(setting) - 1)
    return (1 - (place - low)) * setting[low] + (place - low) * setting[high]


def settings_of(recipe: Recipe, part: Slice, source: Source | None, name: str, fraction: float) -> dict[str, Any]:
    """Every setting for one tensor: of the source, else of the slice, else of all, else the method's default."""
    values = METHODS[recipe.method].defaults(recipe.convention)
    for level in (recipe.settings, part.settings, {} if source is None else source.settings):
        for key, setting in level.items():
            value = resolve(setting, name, fraction)
            if value is not None:
                values[key] = value
    return values

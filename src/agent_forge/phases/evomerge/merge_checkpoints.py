"""Merges checkpoint folders tensor by tensor: never holds a model, and leaves nothing behind when it fails.

Peak memory is about the largest tensor × (parents + 2): parents are memory-mapped and their pages given
back after each tensor, the result is written as it comes. Works on any safetensors checkpoint of
``transformers``; neither imports ``transformers`` nor builds a model. Random methods are seeded by (seed, tensor,
parent), so sharded and unsharded checkpoints give the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_forge.errors import ConfigError
from agent_forge.optim.precision import working_precision
from agent_forge.phases.evomerge.checkpoint_folder import DTYPES, CheckpointFolder, CheckpointWriter, dtype_code
from agent_forge.phases.evomerge.layer_names import at_layer, layer_of, number_of_layers
from agent_forge.phases.evomerge.merge_recipe import (
    MAX_SHARD_BYTES,
    Recipe,
    Slice,
    Source,
    recipe_of_folders,
    recipe_of_yaml,
    settings_of,
)
from agent_forge.phases.evomerge.methods import METHODS, Convention, TensorSettings
from agent_forge.phases.evomerge.parents import (
    check_configs,
    check_finite,
    check_not_all_equal,
    check_same_integers,
    check_tensor,
    check_tensor_names,
    check_tokenizers,
)
from agent_forge.phases.evomerge.ties import global_threshold

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_COPIED = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
    "chat_template*", "generation_config.json",
)  # fmt: skip
_PER_LAYER_LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers")


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the result: where its parts lie, and its place in its slice (0–1, for gradients)."""

    name: str
    part: Slice
    sources: tuple[tuple[Source, str], ...]
    trunk: str
    fraction: float


def merge_folders(
    parents: Sequence[Path],
    out: Path,
    *,
    method: str = "linear",
    base: Path | None = None,
    convention: Convention = "paper",
    dtype: str | None = None,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    **settings: Any,
) -> dict[str, Any]:
    """Merges checkpoint folders into a new one.

    Args:
        parents: folders of one architecture.
        out: a folder that does not exist yet, or is empty.
        method: a name in `METHODS`.
        base: the common ancestor, for methods on task vectors.
        convention: whose defaults, ``paper`` or ``mergekit``.
        dtype: of the result; None keeps the parents'.
        seed: for DARE and DELLA.
        max_shard_bytes: largest file.
        settings: those of the method; a list under ``weight`` or ``density`` has one value per parent.

    Returns:
        Facts: method, tensors, parameters, bytes, layers.

    Raises:
        ConfigError: a recipe that cannot be, or a folder in the way.
        HandoffError: parents that do not fit together; names file, tensor and the two values.
    """
    recipe = recipe_of_folders(
        parents,
        method=method,
        base=base,
        settings=settings,
        convention=convention,
        dtype=dtype,
        seed=seed,
        max_shard_bytes=max_shard_bytes,
    )
    return merge_recipe(recipe, Path(out))


def merge_yaml(path: Path, out: Path) -> dict[str, Any]:
    """Merges by a YAML recipe; see `recipe_of_yaml` for what it may say and `merge_folders` for the rest."""
    return merge_recipe(recipe_of_yaml(Path(path)), Path(out))


def merge_recipe(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Checks, streams into a folder beside ``out``, renames. See `merge_folders`."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not an empty folder: nothing is overwritten")
    folders = [CheckpointFolder(folder) for folder in recipe.folders]
    check_configs(folders, whole_models=recipe.whole_models)
    check_tokenizers(folders)
    if recipe.whole_models:
        check_tensor_names(folders)
    planned = plan_tensors(recipe, folders)
    if recipe.method != "passthrough":
        check_not_all_equal([folders[i] for i in range(len(folders)) if i != recipe.trunk])
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        partial.mkdir()
        facts = _stream(recipe, folders, planned, partial)
        _copy_companions(recipe, folders, planned, partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def plan_tensors(recipe: Recipe, folders: Sequence[CheckpointFolder]) -> list[PlannedTensor]:
    """Every tensor of the result with the places of its parts, shapes checked.

    Raises:
        HandoffError: a tensor that a parent lacks, or has in another shape.
        ConfigError: a layer that a parent does not have.
    """
    planned: list[PlannedTensor] = []
    first, last = recipe.slices[0], recipe.slices[-1]
    for name in folders[first.sources[0].parent].entries:
        if layer_of(name) is None:
            part = first if "embed" in name or "wte" in name else last
            planned.append(PlannedTensor(name, part, tuple((source, name) for source in part.sources), name, 0.0))
    offset = 0
    for part in recipe.slices:
        leader = folders[part.sources[0].parent]
        total = number_of_layers(leader.entries)
        spans = [source.layers or (0, total) for source in part.sources]
        count = spans[0][1] - spans[0][0]
        for source, (low, high) in zip(part.sources, spans, strict=True):
            available = number_of_layers(folders[source.parent].entries)
            if not 0 <= low < high <= available:
                raise ConfigError(f"layer_range {low}–{high} of {folders[source.parent].path.name}: it has {available}")
        for name in leader.entries:
            layer = layer_of(name)
            if layer is None or not spans[0][0] <= layer < spans[0][1]:
                continue
            step = layer - spans[0][0]
            sources = tuple(
                (source, at_layer(name, low + step)) for source, (low, _) in zip(part.sources, spans, strict=True)
            )
            fraction = step / (count - 1) if count > 1 else 1.0
            planned.append(PlannedTensor(at_layer(name, offset + step), part, sources, name, fraction))
        offset += count
    for tensor in planned:
        check_tensor([(folders[source.parent], name) for source, name in tensor.sources])
        if recipe.trunk is not None:
            source, name = tensor.sources[0]
            check_tensor([(folders[source.parent], name), (folders[recipe.trunk], tensor.trunk)])
    return planned


def _stream(
    recipe: Recipe, folders: Sequence[CheckpointFolder], planned: Sequence[PlannedTensor], folder: Path
) -> dict[str, Any]:
    """Merges and writes every tensor; the facts of the result."""
    import torch

    dtype = None if recipe.dtype is None else dtype_code(recipe.dtype)
    shapes = {}
    for tensor in planned:
        source, name = tensor.sources[0]
        entry = folders[source.parent].entries[name]
        shapes[tensor.name] = (dtype if dtype and entry.is_floating else entry.dtype, entry.shape)
    writer = CheckpointWriter(folder, shapes, recipe.max_shard_bytes)
    thresholds = _thresholds(recipe, folders, planned)
    by_name = {tensor.name: tensor for tensor in planned}
    try:
        for name in writer.order:
            merged = merge_tensor(recipe, folders, by_name[name], thresholds)
            writer.write(name, merged.to(getattr(torch, DTYPES[shapes[name][0]])))
            del merged
            for source, part in by_name[name].sources:  # methods that read a parent twice touched its pages again
                folders[source.parent].release(part)
        writer.finish()
    finally:
        writer.close()
    parameters = sum(_count(shape) for _, shape in shapes.values())
    return {
        "method": recipe.method,
        "tensors": len(planned),
        "parameters": parameters,
        "bytes": writer.total_bytes,
        "layers": number_of_layers(by_name),
    }


def merge_tensor(
    recipe: Recipe, folders: Sequence[CheckpointFolder], tensor: PlannedTensor, thresholds: Mapping[int, float]
) -> Tensor:
    """One merged tensor, in working precision."""
    places = [(folders[source.parent], name) for source, name in tensor.sources]
    leader, name = places[0]
    if not leader.entries[name].is_floating:
        check_same_integers(places)
        return leader.tensor(name)
    shared = settings_of(recipe, tensor.part, None, tensor.name, tensor.fraction)
    own = [settings_of(recipe, tensor.part, source, tensor.name, tensor.fraction) for source, _ in tensor.sources]
    settings = TensorSettings(
        weights=[float(values.get("weight", 1.0)) for values in own],
        densities=[float(values.get("density", 1.0)) for values in own],
        options={**shared, **{key: own[0][key] for key in own[0] if key not in ("weight", "density")}},
        generator=lambda parent: tensor_generator(recipe.seed, tensor.name, parent),
        thresholds=[thresholds[source.parent] for source, _ in tensor.sources] if thresholds else None,
    )
    trunk = None
    if recipe.trunk is not None:
        trunk = folders[recipe.trunk].tensor(tensor.trunk)
        check_finite(trunk, folders[recipe.trunk], tensor.trunk)
    merged = METHODS[recipe.method].merge(trunk, _each(places), settings)
    if recipe.trunk is not None:
        folders[recipe.trunk].release(tensor.trunk)
    return merged


def tensor_generator(seed: int, name: str, parent: int) -> torch.Generator:
    """The generator of one tensor of one parent: independent of the order in which tensors are merged."""
    import torch

    digest = hashlib.sha256(f"{seed}:{name}:{parent}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _each(places: Iterable[tuple[CheckpointFolder, str]]) -> Iterator[Tensor]:
    """The tensors one after the other; the pages of the previous one are given back."""
    for folder, name in places:
        tensor = folder.tensor(name)
        check_finite(tensor, folder, name)
        yield tensor
        del tensor
        folder.release(name)


def _thresholds(
    recipe: Recipe, folders: Sequence[CheckpointFolder], planned: Sequence[PlannedTensor]
) -> dict[int, float]:
    """Parent's number → smallest kept magnitude of its whole task vector, where the trim is global."""
    trunk = recipe.trunk
    if trunk is None or settings_of(recipe, recipe.slices[0], None, "", 0.0).get("scope") != "global":
        return {}
    densities: dict[int, set[float]] = {}
    places: dict[int, list[tuple[str, str]]] = {}
    for tensor in planned:
        for source, name in tensor.sources:
            if folders[source.parent].entries[name].is_floating:
                values = settings_of(recipe, tensor.part, source, tensor.name, tensor.fraction)
                densities.setdefault(source.parent, set()).add(float(values["density"]))
                places.setdefault(source.parent, []).append((name, tensor.trunk))

    def deltas(parent: int) -> Iterator[Tensor]:
        for name, trunk_name in places[parent]:
            a, b = folders[parent].tensor(name), folders[trunk].tensor(trunk_name)
            yield working_precision(a) - working_precision(b)
            folders[parent].release(name)
            folders[trunk].release(trunk_name)

    for parent, given in densities.items():
        if len(given) > 1:
            raise ConfigError(
                f"scope global trims a whole task vector: parent {folders[parent].path.name} needs one density, "
                f"not {sorted(given)}; or use scope=tensor"
            )
    return {parent: global_threshold(lambda p=parent: deltas(p), given.pop()) for parent, given in densities.items()}  # type: ignore[misc]


def _copy_companions(
    recipe: Recipe, folders: Sequence[CheckpointFolder], planned: Sequence[PlannedTensor], out: Path
) -> None:
    """Configuration, tokenizer and the recipe beside the weights."""
    first = recipe.slices[0].sources[0]
    donor = folders[recipe.trunk if recipe.trunk is not None else first.parent]
    config = dict(donor.config)
    if recipe.dtype is not None:
        config.pop("torch_dtype", None)
        config["dtype"] = DTYPES[dtype_code(recipe.dtype)]
    if not recipe.whole_models:
        old = int(config.get("num_hidden_layers", 0))
        config["num_hidden_layers"] = number_of_layers(tensor.name for tensor in planned)
        order = [layer for part in recipe.slices for layer in range(*(part.sources[0].layers or (0, old)))]
        for key in _PER_LAYER_LISTS:
            if isinstance(config.get(key), list) and len(config[key]) == old:
                config[key] = [config[key][layer] for layer in order]
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    tokenizer = next((f for f in (donor, *folders) if (f.path / "tokenizer_config.json").exists()), donor)
    for pattern in _COPIED:
        for file in sorted(tokenizer.path.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, out / file.name)
    facts = {
        "convention": recipe.convention,
        "merge_method": recipe.method,
        "parents": [folder.path.name for i, folder in enumerate(folders) if i != recipe.trunk],
        "seed": recipe.seed,
        "settings": dict(recipe.settings),
        "trunk": None if recipe.trunk is None else folders[recipe.trunk].path.name,
    }
    (out / "merge.json").write_text(json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _count(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product

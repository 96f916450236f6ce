"""From genotype to weights: one resident model whose parameters are overwritten from the parents' tensors.

Nothing is written to disk and nothing is allocated per candidate but one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent_forge.errors import HandoffError
from agent_forge.optim.precision import working_precision
from agent_forge.optim.slerp import iterated_slerp
from agent_forge.phases.evomerge.checkpoint_folder import CheckpointFolder
from agent_forge.phases.evomerge.dare import drop
from agent_forge.phases.evomerge.dfs import dfs
from agent_forge.phases.evomerge.evolution import drawn_from
from agent_forge.phases.evomerge.frankenmerge import BLEND, frankenmerge
from agent_forge.phases.evomerge.genotype import DENSITY_STEPS, Genotype, Space
from agent_forge.phases.evomerge.layer_names import at_layer, layer_of, number_of_layers
from agent_forge.phases.evomerge.parents import (
    check_configs,
    check_finite,
    check_not_all_equal,
    check_tensor,
    check_tensor_names,
    check_tokenizers,
)
from agent_forge.phases.evomerge.task_vectors import elect_each, merge_task_vectors
from agent_forge.phases.evomerge.ties import global_thresholds, keep_at_least

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

TRUNK = -2


class ParentTensors:
    """The tensors of the trunk and of all parents, read once; in memory, or memory-mapped when that runs short.

    Args:
        trunk: the common ancestor.
        parents: at least two.

    Raises:
        HandoffError: they do not fit together.
    """

    def __init__(self, trunk: CheckpointFolder, parents: Sequence[CheckpointFolder]) -> None:
        everyone = [trunk, *parents]
        if len(parents) < 2:
            raise HandoffError(f"evolution needs at least two parents, not {len(parents)}")
        check_configs(everyone)
        check_tokenizers(everyone)
        check_tensor_names(everyone)
        for name in trunk.entries:
            check_tensor([(folder, name) for folder in everyone])
        check_not_all_equal(parents)
        self._folders = {TRUNK: trunk, **dict(enumerate(parents))}
        self._thresholds: dict[tuple[int, float], float] = {}
        self.count = len(parents)
        self.names = list(trunk.entries)
        self._resident: dict[tuple[int, str], Tensor] | None = {}
        for who, folder in self._folders.items():
            for name in self.names:
                tensor = folder.tensor(name)
                check_finite(tensor, folder, name)
                self._resident[who, name] = tensor.clone()
                folder.release(name)

    @property
    def in_memory(self) -> bool:
        """False once `to_disk` was called."""
        return self._resident is not None

    def to_disk(self) -> None:
        """From now on each tensor is read from its file when it is needed: slower, and almost no memory."""
        self._resident = None

    def tensor(self, who: int, name: str) -> Tensor:
        """A tensor of a parent (0, 1 …) or of the trunk (`TRUNK`); not to be written to."""
        return self._folders[who].tensor(name) if self._resident is None else self._resident[who, name]

    def done_with(self, name: str) -> None:
        """Gives memory-mapped pages back."""
        if self._resident is None:
            for folder in self._folders.values():
                folder.release(name)

    def is_floating(self, name: str) -> bool:
        """True for tensors that can be merged."""
        return self._folders[TRUNK].entries[name].is_floating

    def threshold(self, parent: int, density: float) -> float:
        """The smallest magnitude that TIES keeps of a parent's whole task vector.

        Args:
            parent: its number.
            density: a multiple of 1/32; the thresholds of all of them are found together, once per parent.
        """
        if (parent, density) not in self._thresholds:
            names = [name for name in self.names if self.is_floating(name)]

            def deltas() -> Any:
                for name in names:
                    own = working_precision(self.tensor(parent, name))
                    yield own - working_precision(self.tensor(TRUNK, name))
                    self.done_with(name)

            grid = [step / DENSITY_STEPS for step in range(1, DENSITY_STEPS + 1)]
            found = zip(grid, global_thresholds(deltas, grid), strict=True)
            self._thresholds.update({(parent, step): value for step, value in found})
        return self._thresholds[parent, density]

    def space(self, groups: int, extra_layers: int) -> Space:
        """What genotypes may say about these parents; ``groups`` counts those inside the stack of layers."""
        layers = number_of_layers(self.names)
        signatures: list[Any] = []
        entries = self._folders[TRUNK].entries
        for layer in range(layers):
            own = {at_layer(name, 0): entries[name].shape for name in self.names if layer_of(name) == layer}
            signatures.append(own)
        kinds = tuple(signatures.index(signature) for signature in signatures)
        return Space(self.count, layers, max(1, min(groups, layers)) + 2, extra_layers, kinds)


def express(genotype: Genotype, parents: ParentTensors, space: Space, into: Mapping[str, Tensor]) -> None:
    """Overwrites a model's tensors with those that the genotype describes.

    Args:
        genotype: the recipe.
        parents: whose tensors.
        space: the parents' space.
        into: name → tensor of a model with as many layers as the genotype's path.

    Raises:
        HandoffError: the model has no tensor of a name that the checkpoints have.
    """
    import torch

    with torch.no_grad():
        for name in expressed_names(parents.names, len(genotype.path)):
            if name not in into:
                raise HandoffError(f"tensor {name} is in the checkpoint, but the model that its config builds has none")
            source, factor = dfs(name, genotype.path, genotype.scales)
            who = frankenmerge(source, genotype.sources, outside=genotype.outside)
            if not parents.is_floating(source):
                who = 0
            tensor = blend(source, genotype, parents, space) if who == BLEND else parents.tensor(who, source)
            into[name].copy_(tensor)
            if factor != 1:
                into[name].mul_(factor)
            parents.done_with(source)


def expressed_names(names: Sequence[str], depth: int) -> list[str]:
    """The tensor names of a model of that depth, from those of the parents."""
    layers = number_of_layers(names)
    kept = [name for name in names if (layer := layer_of(name)) is None or layer < depth]
    last = [name for name in names if layer_of(name) == layers - 1]
    return kept + [at_layer(name, layer) for layer in range(layers, depth) for name in last]


def blend(name: str, genotype: Genotype, parents: ParentTensors, space: Space) -> Tensor:
    """One merged tensor: sparsify, elect, interpolate, scale; see `agent_forge.phases.evomerge.genotype`."""
    group = space.group_of(layer_of(name), before="embed" in name or "wte" in name)
    weights, strength = genotype.weights[group], genotype.strengths[group]
    trunk = working_precision(parents.tensor(TRUNK, name))
    if strength == 0:
        return trunk
    only = [parent for parent in range(parents.count) if weights[parent] > 0]
    if len(only) == 1 and strength == 1 and genotype.densities[only[0]] == 1:
        return parents.tensor(only[0], name)  # to the bit, which trunk + (parent − trunk) is not
    elect = genotype.sparsification == "ties"

    def sparsify(delta: Tensor, parent: int) -> Tensor:
        density = genotype.densities[parent]
        if elect:
            return keep_at_least(delta, parents.threshold(parent, density))
        return drop(delta, density, generator=drawn_from(genotype.seed, f"{name}:{parent}"))

    if genotype.interpolation == "linear":
        tensors = (parents.tensor(parent, name) for parent in range(parents.count))
        return merge_task_vectors(
            trunk,
            tensors,
            weights=weights,
            sparsify=sparsify,
            elect=elect,
            divide_by="weights",
            strength=strength,
        )
    deltas = [sparsify(working_precision(parents.tensor(parent, name)) - trunk, parent) for parent in only]
    own = [weights[parent] for parent in only]
    if elect:
        elect_each(deltas, own)
    between = iterated_slerp((delta.add_(trunk) for delta in deltas), weights=own)
    return between.sub_(trunk).mul_(strength).add_(trunk)


class Resident:
    """The one model in memory that every candidate is written into.

    Args:
        model: any causal language model; its parameters are overwritten.
        parents: whose tensors.
        space: with ``extra_layers`` above 0, the model is rebuilt with that many layers more.
    """

    def __init__(self, model: PreTrainedModel, parents: ParentTensors, space: Space) -> None:
        self.parents, self.space = parents, space
        self._stack = next((name.split(".0.")[0] for name in parents.names if layer_of(name) == 0), None)
        self.model = _deeper(model, space.layers, space.extra_layers) if space.extra_layers else model
        self.model.train(False)
        self._blocks: list[Any] = [] if self._stack is None else list(self.model.get_submodule(self._stack).children())
        self._tensors = self.model.state_dict()

    def become(self, genotype: Genotype) -> PreTrainedModel:
        """The model with the weights that the genotype describes; valid until the next call."""
        if self.space.extra_layers:
            self._set_depth(len(genotype.path))
        express(genotype, self.parents, self.space, self._tensors)
        return self.model

    def _set_depth(self, depth: int) -> None:
        from torch import nn

        assert self._stack is not None
        owner, _, attribute = self._stack.rpartition(".")
        setattr(self.model.get_submodule(owner), attribute, nn.ModuleList(self._blocks[:depth]))
        _with_depth(self.model.config, depth)


def _deeper(model: PreTrainedModel, layers: int, extra: int) -> PreTrainedModel:
    """A model of the same class with more layers (weights are overwritten anyway)."""
    import copy

    config = copy.deepcopy(model.config)
    _with_depth(config, layers + extra)
    build: Any = type(model)
    deeper: PreTrainedModel = build(config).to(dtype=model.dtype, device=model.device)
    return deeper


def _with_depth(config: Any, depth: int) -> None:
    """Sets the number of layers, and cuts or lengthens the lists that hold one value per layer."""
    for key in ("layer_types", "mlp_layer_types", "no_rope_layers"):
        values = getattr(config, key, None)
        if isinstance(values, list) and len(values) == config.num_hidden_layers:
            setattr(config, key, (values + [values[-1]] * depth)[:depth])
    config.num_hidden_layers = depth

"""What an agent's design asks of a graph beyond the next token: experts going in, features coming out, a classifier.

It stands in ``onnx.json``, so that a runner needs no other file: vectors by the name of the expert, and the first pass
of a design with routes. `brought` and `Brought.to_manifest` are the writer's side, `experts_of` and `dispatcher_of` the
reader's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.dispatch import Dispatcher
from agent_forge.agent.equipment import asked_for, needed
from agent_forge.agent.routes import open_dispatcher
from agent_forge.errors import ArtifactCorrupt, HandoffError
from agent_forge.model.expert_vectors import Expert, Factors, basis_of, load_experts, mixture_of
from agent_forge.model.roles import quantizable_linears
from agent_forge.phases.edge.onnx_experts import Adapted, ExpertStep

EXPERTS, FEATURES = "experts", "features"
"""Names of the input and the output, and of what describes them in ``onnx.json``."""


@dataclass(frozen=True)
class Brought:
    """What a graph must have for a design.

    Attributes:
        experts: that the design and its routes ask for.
        mixtures: of them, one for each row of the design that asks for another.
        factors: name and directions of every matrix that they adapt, by its layer.
        dispatcher: the first pass of a design with routes.
    """

    experts: Sequence[Expert] = ()
    mixtures: Sequence[Expert] = ()
    factors: Mapping[nn.Module, tuple[str, Factors]] = field(default_factory=dict)
    dispatcher: Dispatcher | None = None

    def adapted(self, product: nn.Module, layers: Sequence[nn.Linear]) -> nn.Module:
        """The product of some layers, with what experts add to it."""
        found = [self.factors[layer] for layer in layers if layer in self.factors]
        if not found:
            return product
        if len(found) < len(layers):
            raise ValueError(f"experts adapt {found[0][0]} and not the layers that have its product with it")
        return Adapted(product, [name for name, _ in found], [factors for _, factors in found])

    def to_manifest(self, step: nn.Module, width: int, *, one_by_one: bool) -> dict[str, Any]:
        """Its part of ``onnx.json``.

        Args:
            step: the graph, an `ExpertStep` where there are experts.
            width: of the features.
            one_by_one: whether a run gives those of its last token alone.

        Raises:
            ValueError: the graph lacks a matrix that the experts adapt.
        """
        told: dict[str, Any] = {}
        if isinstance(step, ExpertStep):
            names = [name for name, _ in step.matrices]
            if missing := sorted({name for name, _ in self.factors.values()} - set(names)):
                raise ValueError(f"experts adapt {missing[0]}, and the graph has no such product")
            told[EXPERTS] = {
                "input": EXPERTS,
                "shape": [1, step.width],
                "vectors": {each.name: _numbers(_joined(each, names) - 1) for each in self.experts},
                "matrices": [{"name": name, "rank": rank} for name, rank in step.matrices],
            }
        if self.dispatcher is not None:
            weight = [_numbers(row) for row in self.dispatcher.weight]
            told[FEATURES] = {"output": FEATURES, "shape": [1, width], "one_by_one": one_by_one}
            told["routes"] = {
                "classes": list(self.dispatcher.classes), "weight": weight, "bias": _numbers(self.dispatcher.bias),
            }  # fmt: skip
        return told


def brought(folder: Path, model: PreTrainedModel) -> Brought:
    """What the design of a checkpoint folder needs, from the files beside the weights.

    Raises:
        HandoffError: a row sets the window or the depth of the recursion, which are built into a graph; or experts or
            the classifier are not there or do not fit.
    """
    design = (AgentDesign.load(folder) or AgentDesign()).canonical()
    rows = (design, *(row for _, row in design.routes))
    for row in rows:
        for name in ("window", "recursion_steps"):
            if getattr(row, name) is not None:
                raise HandoffError(
                    f"the design of {folder} sets {name}, and a graph has one that is fixed when it is written: "
                    f"change the model's own, or take {name} out of agent.json"
                )
    width = int(model.get_output_embeddings().weight.shape[1])
    dispatcher = open_dispatcher(folder, width, design)
    if not asked_for(design):
        return Brought(dispatcher=dispatcher)
    experts = needed(*load_experts(folder, model), design)
    directions = basis_of(model, max(len(z) for z in experts[0].vectors.values())).factors
    layers = [(name, layer) for name, layer in quantizable_linears(model) if name in directions]
    factors: dict[nn.Module, tuple[str, Factors]] = {layer: (name, directions[name]) for name, layer in layers}
    mixtures = [mixture_of(experts, dict(asked)) for asked in dict.fromkeys(row.experts for row in rows)]
    return Brought(experts, [mixture for mixture in mixtures if mixture is not None], factors, dispatcher)


def experts_of(manifest: Mapping[str, Any], where: str) -> list[Expert]:
    """The experts of an export; none where its design asks for none.

    Raises:
        ArtifactCorrupt: what is said about them does not hold together.
    """
    part = manifest.get(EXPERTS)
    if part is None:
        return []
    try:
        ranks = {str(row["name"]): int(row["rank"]) for row in part["matrices"]}
        width = int(part["shape"][1])
        vectors = {str(name): torch.tensor(values, dtype=torch.float32) for name, values in part["vectors"].items()}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactCorrupt(f"{where}: experts cannot be read: {error!r}") from error
    if sum(ranks.values()) != width:
        raise ArtifactCorrupt(f"{where}: matrices of ranks {sum(ranks.values())} in all, and an input of {width}")
    for name, values in vectors.items():
        if values.shape != (width,) or not bool(values.isfinite().all()):
            shape = list(values.shape)
            raise ArtifactCorrupt(f"{where}: the expert {name} needs {width} finite numbers, not some of shape {shape}")
    sizes = list(ranks.values())
    return [
        Expert(name, dict(zip(ranks, (1 + values).split(sizes), strict=True)), "") for name, values in vectors.items()
    ]


def as_input(expert: Expert, manifest: Mapping[str, Any]) -> np.ndarray:
    """What the graph is given for an expert or a mixture, float32 [1, N]."""
    names = [row["name"] for row in manifest[EXPERTS]["matrices"]]
    given: np.ndarray = (_joined(expert, names) - 1)[None].numpy()
    return given


def dispatcher_of(manifest: Mapping[str, Any], where: str) -> Dispatcher | None:
    """The classifier of an export; None where its design has no routes.

    Raises:
        ArtifactCorrupt: it cannot be read.
        HandoffError: its parts do not fit each other.
    """
    part = manifest.get("routes")
    if part is None:
        return None
    try:
        weight, bias = (torch.tensor(part[name], dtype=torch.float32) for name in ("weight", "bias"))
        classes = tuple(str(name) for name in part["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{where}: routes cannot be read: {error!r}") from error
    return Dispatcher(classes, weight, bias).checked(where)


def _joined(expert: Expert, names: Sequence[str]) -> Tensor:
    return torch.cat([expert.vectors[name] for name in names])


def _numbers(values: Tensor) -> list[float]:
    """As JSON holds them: the shortest digits that give the same fp32 number again."""
    return [float(str(value)) for value in values.float().numpy()]

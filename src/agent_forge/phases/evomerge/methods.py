"""Every merge method in one table: what it needs, its settings with their defaults, and who does the work.

Nothing registers itself at import: to see what exists, read `METHODS`. Each method has the defaults of its
paper and, where mergekit decided otherwise, mergekit's (``convention="mergekit"``, the one of YAML recipes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from agent_forge.optim.precision import working_precision
from agent_forge.optim.slerp import iterated_slerp, slerp
from agent_forge.phases.evomerge.dare import dare
from agent_forge.phases.evomerge.della import drop_both_ends, drop_by_rank
from agent_forge.phases.evomerge.karcher import karcher
from agent_forge.phases.evomerge.linear import linear
from agent_forge.phases.evomerge.model_stock import model_stock
from agent_forge.phases.evomerge.task_vectors import merge_task_vectors
from agent_forge.phases.evomerge.ties import ties

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Convention = Literal["paper", "mergekit"]


@dataclass(frozen=True)
class TensorSettings:
    """What a method is told for one tensor.

    Attributes:
        weights: one per parent.
        densities: kept fraction, one per parent.
        options: shared settings by name; see `METHODS`.
        generator: parent's number → generator of this tensor and parent.
        thresholds: smallest kept magnitude per parent, where the trim is global.
    """

    weights: Sequence[float]
    densities: Sequence[float]
    options: Mapping[str, Any]
    generator: Callable[[int], torch.Generator]
    thresholds: Sequence[float] | None = None


Merge = Callable[["Tensor | None", "Iterable[Tensor]", TensorSettings], "Tensor"]


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: the word on the command line and in recipes (mergekit's, where it has the method).
        summary: one line.
        source: paper.
        merge: (trunk tensor or None, parents' tensors, settings) → merged tensor.
        needs_trunk: works on task vectors.
        parents: smallest and largest number (None: any).
        options: settings with the paper's defaults. ``weight`` and ``density`` are per parent.
        mergekit: the defaults that mergekit changed.
    """

    name: str
    summary: str
    source: str
    merge: Merge
    needs_trunk: bool = False
    parents: tuple[int, int | None] = (2, None)
    options: Mapping[str, Any] = field(default_factory=dict)
    mergekit: Mapping[str, Any] = field(default_factory=dict)

    def defaults(self, convention: Convention) -> dict[str, Any]:
        """Setting → default under a convention."""
        return {**self.options, **(self.mergekit if convention == "mergekit" else {})}


def _linear(trunk: Tensor | None, tensors: Iterable[Tensor], s: TensorSettings) -> Tensor:
    return linear(tensors, weights=s.weights, normalize=s.options["normalize"])


def _slerp(trunk: Tensor | None, tensors: Iterable[Tensor], s: TensorSettings) -> Tensor:
    limits = {"parallel_cosine": s.options["parallel_cosine"], "vectors": s.options["vectors"]}
    if s.options["t"] is None:
        return iterated_slerp(tensors, weights=s.weights, **limits)
    a, b = tensors
    return slerp(a, b, float(s.options["t"]), **limits)


def _karcher(trunk: Tensor | None, tensors: Iterable[Tensor], s: TensorSettings) -> Tensor:
    return karcher(tensors, weights=s.weights, iterations=s.options["max_iter"], tolerance=s.options["tol"])


def _passthrough(trunk: Tensor | None, tensors: Iterable[Tensor], s: TensorSettings) -> Tensor:
    (tensor,) = tensors
    return tensor if s.options["scale"] is None else working_precision(tensor) * float(s.options["scale"])


def _model_stock(trunk: Tensor | None, tensors: Iterable[Tensor], s: TensorSettings) -> Tensor:
    assert trunk is not None
    return model_stock(trunk, tensors)


def _ties(trunk: Tensor | None, tensors: Iterable[Tensor], s: TensorSettings) -> Tensor:
    assert trunk is not None
    return ties(
        trunk,
        tensors,
        weights=s.weights,
        densities=None if s.options["scope"] == "global" else s.densities,
        thresholds=s.thresholds if s.options["scope"] == "global" else None,
        divide_by=_divisor(s.options),
        zero_is_positive=s.options["zero_is_positive"],
        strength=s.options["lambda"],
    )


def _dare(elect: bool) -> Merge:
    def merge(trunk: Tensor | None, tensors: Iterable[Tensor], s: TensorSettings) -> Tensor:
        assert trunk is not None
        return dare(
            trunk,
            tensors,
            weights=s.weights,
            densities=s.densities,
            generator=s.generator,
            rescale=_rescale(s.options),
            elect=elect,
            divide_by=_divisor(s.options),
            zero_is_positive=s.options["zero_is_positive"],
            strength=s.options["lambda"],
        )

    return merge


def _thinned(kind: Literal["della", "breadcrumbs", "all"], elect: bool) -> Merge:
    """Task arithmetic, DELLA and breadcrumbs: the switchboard with another way to thin."""

    def merge(trunk: Tensor | None, tensors: Iterable[Tensor], s: TensorSettings) -> Tensor:
        assert trunk is not None

        def thin(delta: Tensor, parent: int) -> Tensor:
            if kind == "breadcrumbs":
                return drop_both_ends(delta, s.densities[parent], gamma=s.options["gamma"])
            return drop_by_rank(
                delta,
                s.densities[parent],
                epsilon=s.options["epsilon"],
                generator=s.generator(parent),
                rescale=_rescale(s.options),
            )

        return merge_task_vectors(
            trunk,
            tensors,
            weights=s.weights,
            sparsify=None if kind == "all" else thin,
            elect=elect,
            divide_by=_divisor(s.options),
            zero_is_positive=s.options.get("zero_is_positive", False),
            strength=s.options["lambda"],
        )

    return merge


def _divisor(options: Mapping[str, Any]) -> Any:
    """``divide_by``, or mergekit's boolean ``normalize`` where a recipe gives it."""
    if options.get("normalize") is None:
        return options["divide_by"]
    return "weights" if options["normalize"] else "none"


def _rescale(options: Mapping[str, Any]) -> Any:
    """``keep``, ``l1`` or ``none``; mergekit's boolean means ``l1`` or ``none``."""
    value = options["rescale"]
    return {True: "l1", False: "none"}[value] if isinstance(value, bool) else value


_SUM = {"weight": 1.0, "lambda": 1.0, "normalize": None, "divide_by": "none"}
_VOTE = {"weight": 1.0, "lambda": 1.0, "normalize": None, "divide_by": "count", "zero_is_positive": False}
_KIT_MEAN = {"divide_by": "weights", "zero_is_positive": True}
_KIT_SUM = {"divide_by": "none", "zero_is_positive": True}
_DARE = {"density": 0.5, "rescale": "keep", "zero_is_positive": False}
_DELLA = {"density": 0.5, "epsilon": 0.15, "rescale": "keep"}

_TABLE = (
    Method("linear", "weighted mean", "arXiv:2203.05482", _linear, options={"weight": 1.0, "normalize": True}),
    Method(
        "slerp",
        "along the arc between two parents; iterated for more",
        "Shoemake 1985",
        _slerp,
        options={"weight": 1.0, "t": None, "parallel_cosine": 0.9995, "vectors": "lerp"},
        mergekit={"vectors": "slerp"},
    ),
    Method(
        "karcher",
        "centre on the sphere",
        "Karcher 1977",
        _karcher,
        options={"weight": 1.0, "max_iter": 10, "tol": 1e-5},
    ),
    Method("task_arithmetic", "sum of task vectors", "arXiv:2212.04089", _thinned("all", False), True, (1, None), _SUM),
    Method(
        "ties",
        "trim, elect signs, disjoint mean",
        "arXiv:2306.01708",
        _ties,
        True,
        (1, None),
        {**_VOTE, "density": 0.2, "scope": "global"},
        {**_KIT_MEAN, "density": 1.0, "scope": "tensor"},
    ),
    Method(
        "dare_linear",
        "drop at random, rescale, add",
        "arXiv:2311.03099",
        _dare(False),
        True,
        (1, None),
        {**_SUM, **_DARE},
        {**_KIT_SUM, "density": 1.0, "rescale": "l1"},
    ),
    Method(
        "dare_ties",
        "drop at random, rescale, elect signs",
        "arXiv:2311.03099",
        _dare(True),
        True,
        (1, None),
        {**_VOTE, **_DARE},
        {**_KIT_SUM, "density": 1.0, "rescale": "l1"},
    ),
    Method(
        "della",
        "drop by rank, elect signs",
        "arXiv:2406.11617",
        _thinned("della", True),
        True,
        (1, None),
        {**_VOTE, **_DELLA},
        {**_KIT_MEAN, "density": 1.0, "rescale": "l1"},
    ),
    Method(
        "della_linear",
        "drop by rank, add",
        "arXiv:2406.11617",
        _thinned("della", False),
        True,
        (1, None),
        {**_SUM, **_DELLA},
        {**_KIT_SUM, "density": 1.0, "rescale": "l1"},
    ),
    Method(
        "breadcrumbs",
        "drop outliers and small entries, add",
        "arXiv:2312.06795",
        _thinned("breadcrumbs", False),
        True,
        (1, None),
        {**_SUM, "density": 0.85, "gamma": 0.01},
        {**_KIT_SUM, "density": 1.0},
    ),
    Method(
        "breadcrumbs_ties",
        "drop outliers and small entries, elect signs",
        "arXiv:2312.06795",
        _thinned("breadcrumbs", True),
        True,
        (1, None),
        {**_VOTE, "density": 0.85, "gamma": 0.01},
        {**_KIT_SUM, "density": 1.0},
    ),
    Method("model_stock", "as far as the angle allows", "arXiv:2403.19522", _model_stock, True, (2, None)),
    Method(
        "passthrough",
        "layers as they are (Frankenmerge by slices)",
        "arXiv:2403.13257",
        _passthrough,
        parents=(1, 1),
        options={"scale": None},
    ),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _TABLE})

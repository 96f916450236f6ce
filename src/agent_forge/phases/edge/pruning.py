"""Structured pruning: whole channels, heads and layers go, so that a smaller model of the same kind is left.

Importance to first order as in Michel, Levy, Neubig 2019 (arXiv:1905.10650, section 4.1; greedy, iterative) and
Molchanov et al. 2019 (arXiv:1906.10771); dependent rows and columns go together as in Ma, Fang, Wang 2023, "LLM-Pruner"
(arXiv:2305.11627, section 3.1).

What we do differently:
1. Nothing is trained afterwards: what is left keeps its values bit for bit, ternary layers their γ.
2. Every layer loses equally many units, the least important of its own: one configuration describes all layers.
3. A cut counts by the loss that it really costs on the batches, per parameter that it frees; first order only says
   which units of a kind go first.
4. A judge asks the agent again (tools, persona, ordinary text) and its word is final. It is slow, so it judges a row of
   cuts at once; what fails is undone by bisection, down to the one cut that does the harm, whose kind then stays whole.
5. A cut stays only if it is shown to be harmless: the upper end of the 95% interval of what it loses, question by
   question, has to stay below the limit. What looks harmless on few questions often is not on others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from agent_forge.agent.abilities import Answers
from agent_forge.evaluation.statistics import ONE_SIDED, most_lost
from agent_forge.phases.edge.cuts import KINDS, Anatomy, CannotCut, Cut, Kind, anatomy, apply_cut, removable_layers
from agent_forge.phases.edge.importance import Importance, first_order, token_loss

BITS = "bits_per_byte"
Batches: TypeAlias = Sequence[Mapping[str, Tensor]]
Judge: TypeAlias = Callable[[PreTrainedModel], Mapping[str, float | Answers]]
"""``bits_per_byte`` (lower is better), and for each ability whether each of its questions was answered right."""


@dataclass(frozen=True)
class Limits:
    """What may be lost, against the model as it came.

    Attributes:
        points: share of right answers of each ability, at the upper end of the 95% interval (0–1).
        bits_ratio: largest bits per byte over those before, and largest loss over that before on the batches.
    """

    points: float = 0.02
    bits_ratio: float = 1.05


@dataclass
class Pruned:
    """What came of it.

    Attributes:
        cuts: those that stayed, in the order in which they were made.
        before: the judge's figures of the model as it came; shares of right answers.
        measured: its figures of the model that is left.
        answers: right or wrong, question by question, of the model as it came.
        skipped: why a kind was not cut, or no further, by kind.
        trials: every judgement: cuts made together, its figures, and why they were undone ("" = they stayed).
        parameters_before: parameters of the model as it came.
        parameters: parameters that are left.
        pending: the row that is being judged, while it is.
    """

    before: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    answers: dict[str, list[bool]] = field(default_factory=dict)
    cuts: list[Cut] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)
    parameters_before: int = 0
    parameters: int = 0
    pending: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is the inverse."""
        return {**vars(self), "cuts": [cut.to_json() for cut in self.cuts]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Pruned:
        """The inverse of `to_json`."""
        return cls(**{**value, "cuts": [Cut.from_json(cut) for cut in value["cuts"]]})


def prune(
    model: PreTrainedModel,
    batches: Batches,
    judge: Judge,
    *,
    kinds: Sequence[Kind] = KINDS,
    limits: Limits | None = None,
    step_fraction: float = 0.04,
    multiple: int = 16,
    max_judgements: int = 4,
    state: Mapping[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
) -> Pruned:
    """Prunes ``model`` in place.

    Args:
        model: in evaluation mode, ternary layers frozen. On resume: as it came, before any cut.
        batches: text for importance and loss (`token_loss`), not of the test split.
        judge: asks a model.
        kinds: that may be cut.
        limits: what may be lost.
        step_fraction: channels in one cut, as a share of the width.
        multiple: channels go in multiples of this, because kernels and packed formats like whole blocks.
        max_judgements: most calls of ``judge``, that of the model as it came not counted.
        state: what ``keep`` was given last, to go on from there.
        keep: called after every judgement with JSON values.

    Returns:
        What was cut and measured; ``model`` and its configuration are the pruned ones.

    Raises:
        ValueError: an unknown kind, no batch, or a judge that gives no figures.
    """
    limits = limits or Limits()
    found = _begin(model, batches, judge, kinds, limits) if state is None else Pruned.from_json(state)
    # 1. the model as it came, and on resume what was cut before
    loss_before = _mean_loss(model, batches)
    for cut in found.cuts:
        apply_cut(model, cut)
    # 2. rows of cuts, each judged from its whole length downwards
    while len(found.trials) < max_judgements:
        if not found.pending:
            allowed = [kind for kind in kinds if kind not in found.skipped]
            row = plan(model, batches, allowed, loss_before * limits.bits_ratio, step_fraction, multiple, found.skipped)
            if not row:
                break
            found.pending = {"row": [cut.to_json() for cut in row], "good": 0, "bad": len(row) + 1, "reason": ""}
        _halve(model, judge, limits, found)
        if keep is not None:
            keep(found.to_json())
    if len(found.trials) >= max_judgements:
        for kind in kinds:
            found.skipped.setdefault(kind, f"{max_judgements} judgements were made, and no more were allowed")
    found.pending, found.parameters = {}, _size(model)
    return found


def _begin(model: PreTrainedModel, batches: Batches, judge: Judge, kinds: Sequence[Kind], limits: Limits) -> Pruned:
    """Checks what was given, and measures the model as it came."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not batches:
        raise ValueError(f"{len(batches)} batches, unknown kinds {unknown}; kinds are {', '.join(KINDS)}")
    judged = judge(model)
    if not judged:
        raise ValueError("the judge gave no figures, so there is nothing to hold cuts to")
    answers = {name: list(map(bool, rows)) for name, rows in judged.items() if not isinstance(rows, float)}
    hopeless = too_few(answers, limits)
    skipped: dict[str, str] = {kind: hopeless for kind in kinds if hopeless}
    return Pruned(shares(judged), shares(judged), answers=answers, skipped=skipped, parameters_before=_size(model))


def shares(judged: Mapping[str, float | Answers]) -> dict[str, float]:
    """The figures of a judgement: bits as they are, of answers the share that is right; not a number without any."""
    return {
        name: float(value) if isinstance(value, float) else sum(value) / len(value) if value else math.nan
        for name, value in judged.items()
    }


def too_few(answers: Mapping[str, Answers], limits: Limits) -> str:
    """Why no cut could be shown to be harmless, even one that changes no answer; "" where one could."""
    for name, rows in answers.items():
        if rows and most_lost(rows, rows) > limits.points:
            needed = math.ceil(ONE_SIDED**2 * (1 - limits.points) / limits.points)
            return (
                f"{len(rows)} questions about {name} cannot show a loss below {100 * limits.points:g} points; "
                f"{needed} could"
            )
    return ""


def _halve(model: PreTrainedModel, judge: Judge, limits: Limits, found: Pruned) -> None:
    """One judgement of the row at hand: first of the whole, then half of what lies between good and bad."""
    state = found.pending
    row = [Cut.from_json(cut) for cut in state["row"]]
    good, bad = state["good"], state["bad"]
    trying = row[good:] if bad > len(row) else row[good : (good + bad) // 2]
    undo = [apply_cut(model, cut) for cut in trying]
    judged = judge(model)
    figures, reason = shares(judged), too_much({**found.before, **found.answers}, judged, limits)
    found.trials.append({"cuts": [cut.to_json() for cut in trying], "measured": figures, "undone": reason})
    if reason:
        for back in reversed(undo):
            back()
        state["bad"], state["reason"] = good + len(trying), reason
    else:
        state["good"] = good + len(trying)
        found.cuts += trying
        found.measured = figures
    if state["good"] == len(row):
        found.pending = {}
    elif state["good"] + 1 == state["bad"]:
        # The one cut that makes the difference is known: its kind stays as it is.
        found.skipped[row[state["good"]].kind] = state["reason"]
        found.pending = {}


def too_much(before: Mapping[str, float | Answers], after: Mapping[str, float | Answers], limits: Limits) -> str:
    """Why ``after`` is not allowed: the first figure that may have fallen too far, or was not measured; "" if none."""
    was, now = shares(before), shares(after)
    for name, value in before.items():
        later = after.get(name)
        if isinstance(value, float):
            if not now.get(name, math.nan) <= value * limits.bits_ratio:
                return f"{name} {value:.4f} → {now.get(name, math.nan):.4f}, over {limits.bits_ratio:.3f} times as many"
        elif later is None or isinstance(later, float) or len(later) != len(value):
            return f"{name} was not asked again"
        elif (most := most_lost(value, later)) > limits.points:
            return (
                f"{name} {was[name]:.3f} → {now[name]:.3f}: as much as {100 * most:.1f} points may be lost, "
                f"{100 * limits.points:g} are allowed"
            )
    return ""


def plan(
    model: PreTrainedModel,
    batches: Batches,
    kinds: Sequence[Kind],
    max_loss: float,
    step_fraction: float,
    multiple: int,
    skipped: dict[str, str],
) -> list[Cut]:
    """A row of cuts, cheapest first, for as long as the loss on the batches stays below ``max_loss``.

    The model is left as it was. ``skipped`` is given the reason why a kind has no further cut.
    """
    where = anatomy(model)
    importance = _importance(model, batches, where)
    row: list[Cut] = []
    undo: list[Callable[[], None]] = []
    loss, open_kinds = importance.loss, list(kinds)
    while open_kinds:
        offers = []
        for kind in list(open_kinds):
            offer = _offer(model, batches, kind, importance, (step_fraction, multiple), loss, max_loss)
            if isinstance(offer, str):
                skipped[kind] = offer
                open_kinds.remove(kind)
            else:
                offers.append(offer)
        if not offers:
            break
        _, _, loss, cut = min(offers, key=lambda offer: offer[:2])
        undo.append(apply_cut(model, cut))
        row.append(cut)
        importance = _without(importance, cut, where.layers_path)
    for back in reversed(undo):
        back()
    # A kind that only ran out of room at the end of the row is not barred: the row itself may yet be undone.
    for kind in {cut.kind for cut in row}:
        skipped.pop(kind, None)
    return row


def _offer(
    model: PreTrainedModel,
    batches: Batches,
    kind: Kind,
    importance: Importance,
    sizes: tuple[float, int],
    loss: float,
    max_loss: float,
) -> tuple[float, int, float, Cut] | str:
    """The next cut of a kind: (loss per parameter, place in `KINDS`, loss after it, cut), or why there is none."""
    where = anatomy(model)
    cut = _next_cut(model, where, kind, importance, sizes)
    if isinstance(cut, str):
        return cut
    size = _size(model)
    try:
        back = apply_cut(model, cut)
    except CannotCut as error:
        return str(error)
    after, freed = _mean_loss(model, batches), size - _size(model)
    back()
    if not after <= max_loss:
        what = {path: len(units) for path, units in cut.units.items()}
        return f"{sum(what.values())} more {kind} would raise the loss on the batches from {loss:.4f} to {after:.4f}"
    return (after - loss) / max(1, freed), KINDS.index(kind), after, cut


def _next_cut(
    model: PreTrainedModel, where: Anatomy, kind: Kind, importance: Importance, sizes: tuple[float, int]
) -> Cut | str:
    if kind == "layers":
        allowed, reason = removable_layers(model, where)
        if not allowed:
            return reason
        return Cut(kind, {where.layers_path: (min(allowed, key=lambda n: float(importance.layers[n])),)})
    if kind in where.reasons:
        return where.reasons[kind]
    places = where.places[kind]
    count = next(iter(places.values())).count
    fraction, multiple = sizes
    step = 1 if kind == "heads" else max(multiple, round(count * fraction / multiple) * multiple)
    if count <= step:
        return f"only {count} {kind} are left"
    scores = {path: importance.inputs[path] for path in places}
    if kind == "heads" and getattr(model.config, "value_residual", False):
        # Values of a head are mixed with those of the head of the same number in the first layer.
        together = torch.stack(list(scores.values())).sum(0)
        scores = dict.fromkeys(scores, together)
    return Cut(kind, {path: tuple(sorted(each.argsort()[:step].tolist())) for path, each in scores.items()})


def _importance(model: PreTrainedModel, batches: Batches, where: Anatomy) -> Importance:
    places = {path: place for kind in where.places for path, place in where.places[kind].items()}
    layers = list(model.get_submodule(where.layers_path).children()) if where.layers_path else []
    return first_order(
        model,
        batches,
        {path: place.columns[0] for path, place in places.items()},
        layers,
        {path: place.columns[1] for path, place in places.items()},
    )


def _without(importance: Importance, cut: Cut, layers_path: str) -> Importance:
    """Importance of what a cut leaves, under the paths that it leaves."""
    inputs: dict[str, Tensor] = {}
    changes = importance.layers
    if cut.kind == "layers":
        (gone,) = cut.units[layers_path]
        changes = torch.cat([changes[:gone], changes[gone + 1 :]])
        for path, scores in importance.inputs.items():
            number, _, rest = path.removeprefix(f"{layers_path}.").partition(".")
            if not path.startswith(f"{layers_path}.") or int(number) < gone:
                inputs[path] = scores
            elif int(number) > gone:
                inputs[f"{layers_path}.{int(number) - 1}.{rest}"] = scores
    else:
        for path, scores in importance.inputs.items():
            out = cut.units.get(path, ())
            inputs[path] = scores[[unit for unit in range(len(scores)) if unit not in set(out)]]
    return Importance(inputs, changes, importance.loss)


@torch.no_grad()
def _mean_loss(model: nn.Module, batches: Batches) -> float:
    return sum(float(token_loss(model, batch)) for batch in batches) / len(batches)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())

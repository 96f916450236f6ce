"""Kinds of question that an agent can tell apart by one reading: families, joined where their questions look the same.

Levels of one strategy or tool often differ in what is asked (longer sums), and sometimes only in what the world holds
("no tool" of any level). What is joined is decided on the training split: a classifier is fitted on one half of its
questions, and two families of one strategy or tool that it mistakes for each other on the other half become one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agent_forge.agent.dispatch import BASE, Dispatcher, fit_dispatcher
from agent_forge.phases.edge.design_questions import Problem, Source, draw
from agent_forge.phases.edge.design_space import Nature

_MISTAKEN = 0.3
"""Questions of a family taken for another and of that one for the first, shares added, from which on they are one."""
_FEWEST = 8


@dataclass(frozen=True)
class Kinds:
    """What a first pass tells apart.

    Attributes:
        dispatcher: the classifier; its classes are kinds, and `BASE`.
        kind_of: family → the kind that it belongs to.
        natures: kinds with head-room, each of which may get a route → what it needs.
    """

    dispatcher: Dispatcher
    kind_of: dict[str, str]
    natures: dict[str, Nature]

    def accuracy(self, problems: Sequence[Problem], recognised: Sequence[str]) -> float:
        """Share of the questions that are taken for what they are."""
        right = [self.kind_of.get(each.family) == kind for each, kind in zip(problems, recognised, strict=True)]
        return sum(right) / len(right)


def tell_apart(
    families: Mapping[str, Source],
    with_room: Sequence[str],
    ordinary: Sequence[str],
    features: Callable[[Sequence[str]], Tensor],
    *,
    questions: int = 64,
) -> Kinds:
    """Fits the first pass on questions of the training split.

    Args:
        families: all there are; those without head-room are told apart, too, so that they keep the outer row.
        with_room: names of those with head-room.
        ordinary: questions of none of them.
        features: `agent_forge.agent.dispatch.question_features` of the model as it is.
        questions: of each family at most.

    Raises:
        ValueError: there is no ordinary question, or no family with enough questions.
    """
    asked = {name: draw(source, "train", questions) for name, source in families.items()}
    asked = {name: group for name, group in asked.items() if len(group) >= _FEWEST}
    if not (asked and ordinary):
        raise ValueError("kinds cannot be told apart without questions of each and ordinary ones beside them")
    rows = {name: features([problem.ask for problem in group]) for name, group in asked.items()}
    base = features(ordinary)
    kind_of = joined(rows, base, {name: group[0].kind for name, group in asked.items()})
    by_kind: dict[str, list[Tensor]] = {}
    for name, kind in kind_of.items():
        by_kind.setdefault(kind, []).append(rows[name])
    dispatcher = fit_dispatcher({BASE: base} | {kind: torch.cat(group) for kind, group in by_kind.items()})
    natures = {kind_of[name]: _nature(asked[name][0]) for name in with_room if name in kind_of}
    return Kinds(dispatcher, kind_of, natures)


def joined(rows: Mapping[str, Tensor], base: Tensor, strategies: Mapping[str, str]) -> dict[str, str]:
    """Family → kind: its own name, or that of all families which look the same.

    Args:
        rows: features of each family.
        base: those of ordinary questions.
        strategies: what families must have in common to become one.
    """
    classifier = fit_dispatcher({BASE: base[::2]} | {name: each[::2] for name, each in rows.items()})
    said = {name: classifier.choose(each[1::2]) for name, each in rows.items()}
    group = {name: name for name in rows}
    names = list(rows)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            mistaken = said[first].count(second) / len(said[first]) + said[second].count(first) / len(said[second])
            if strategies[first] == strategies[second] and mistaken > _MISTAKEN:
                old, kept = group[second], group[first]
                group = {name: kept if owner == old else owner for name, owner in group.items()}
    members = {owner: [name for name in names if group[name] == owner] for owner in set(group.values())}
    return {name: _name(members[owner]) for name, owner in group.items()}


def _name(families: Sequence[str]) -> str:
    """``no tool 2, 4, 5`` for families ``no tool 2``, ``no tool 4`` and ``no tool 5``."""
    first, *others = families
    return ", ".join([first, *(name.rsplit(" ", 1)[-1] for name in others)])


def _nature(problem: Problem) -> Nature:
    return "thought" if problem.calls is None else "call" if problem.calls else "neither"

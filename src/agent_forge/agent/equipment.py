"""Experts of a design: which it needs, and putting them on for as long as it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, TypeAlias

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.interpreter import Equip
from agent_forge.errors import HandoffError
from agent_forge.model.decoder import Decoder
from agent_forge.model.expert_vectors import Expert, applied, mixture_of

Wear: TypeAlias = Callable[[Any, Expert], AbstractContextManager[None]]
"""Within, a model computes with an expert: `applied` for one whose layers are at hand."""


def with_experts(experts: Sequence[Expert], wear: Wear = applied) -> Equip:
    """Puts on the experts that a design names, as long as it runs.

    Args:
        experts: all there are.
        wear: how a model puts one on.
    """
    mixture = cache(lambda wanted: mixture_of(experts, dict(wanted)))

    @contextmanager
    def equip(model: Decoder, design: AgentDesign) -> Iterator[Decoder]:
        worn = mixture(design.experts)
        with nullcontext() if worn is None else wear(model, worn):
            yield model

    return equip


def asked_for(design: AgentDesign) -> list[str]:
    """Names of the experts that a design and its routes ask for."""
    return sorted({name for row in (design, *(row for _, row in design.routes)) for name, _ in row.experts})


def needed(experts: Sequence[Expert], skipped: Mapping[str, str], design: AgentDesign) -> list[Expert]:
    """Those of ``experts`` that a design and its routes ask for.

    Args:
        experts: that can be used.
        skipped: name → why another cannot.
        design: what asks for them.

    Raises:
        HandoffError: it asks for one that is not there or cannot be used; the message says which and why.
    """
    names = asked_for(design)
    if missing := [name for name in names if name not in {expert.name for expert in experts}]:
        why = skipped.get(missing[0], "it is not among its experts")
        raise HandoffError(f"the design asks for the expert {missing[0]}: {why}")
    return [expert for expert in experts if expert.name in names]

"""What experts, their dispatch and their mixtures are worth, on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.dispatch import Mixing, TwoPass, search_mixture
from agent_forge.data.documents import Document
from agent_forge.evaluation.answer_nats import answer_nats
from agent_forge.model.expert_vectors import Basis, Expert, applied, identity
from agent_forge.phases.edge.expert_lesson import Standing, Teacher
from agent_forge.phases.edge.skills import Examples, Skill, opening

_BLEND, _ORDINARY = "all skills together", "ordinary text"
_FEW = 32
"""Examples that a mixture is searched with: half of them to search, half to judge."""


@torch.inference_mode()
def identity_holds(model: PreTrainedModel, basis: Basis, ids: torch.Tensor) -> bool:
    """Whether an expert of ones gives the logits of the base bit for bit, for tokens [B, T]."""
    before = model(input_ids=ids, use_cache=False).logits
    with applied(model, identity(basis), basis):
        after = model(input_ids=ids, use_cache=False).logits
    return torch.equal(before.view(torch.uint8), after.view(torch.uint8))


def skill_rows(
    teacher: Teacher, experts: Sequence[Expert], skills: Mapping[str, Skill]
) -> dict[str, dict[str, Standing]]:
    """By skill: ``base`` and ``expert`` on the test split."""
    found = {}
    for expert in experts:
        held = skills[expert.name].test
        base = teacher.standing(held)
        with applied(teacher.model, expert, teacher.basis):
            found[expert.name] = {"base": base, "expert": teacher.standing(held)}
    return found


def dispatch_accuracy(two_pass: TwoPass, held: Mapping[str, Examples]) -> tuple[float, dict[str, dict[str, float]]]:
    """Share of questions sent to the right place, each class counting the same; and where each class was sent.

    Args:
        two_pass: model, experts and classifier.
        held: questions by the right class, `agent_forge.agent.dispatch.BASE` among them.
    """
    sent: dict[str, dict[str, float]] = {}
    for name, examples in held.items():
        questions = [task.prompt for task in examples.tasks] or [opening(each) for each in examples.documents]
        chosen = two_pass.choose(questions)
        sent[name] = {other: chosen.count(other) / len(chosen) for other in sorted(set(chosen))}
    return sum(row.get(name, 0.0) for name, row in sent.items()) / len(sent), sent


def mixtures(
    two_pass: TwoPass,
    skills: Mapping[str, Skill],
    everyday: tuple[Examples, Examples],
    *,
    generator: torch.Generator,
    population: int,
    generations: int,
) -> list[dict[str, Any]]:
    """Searches a mixture for all skills together and for ordinary text, and measures both and the dispatch.

    Args:
        two_pass: model, experts and classifier.
        skills: of the experts.
        everyday: ordinary examples of the selection and of the test split.
        generator, population, generations: of the search.

    Returns:
        A row for each: ``how``, ``what``, nats per token of base and mixture on the test split, and ``gain_fraction``:
        what is saved of the base's nats, below zero where the mixture is worse.
    """
    model, tokenizer = two_pass.model, two_pass.tokenizer
    experts = list(two_pass.experts.values())
    told = {name: skills[name] for name in two_pass.experts}
    shown = {
        _BLEND: _in_turn([each.selection.documents for each in told.values()]),
        _ORDINARY: list(everyday[0].documents),
    }
    held = {_BLEND: _in_turn([each.test.documents for each in told.values()]), _ORDINARY: list(everyday[1].documents)}
    rows = []
    for what, examples in shown.items():
        found = search_mixture(
            model,
            tokenizer,
            experts,
            examples[:_FEW],
            generator=generator,
            population=population,
            generations=generations,
        )
        rows.append(_mixture_row(model, tokenizer, what, found, held[what], list(two_pass.experts)))
    for what, documents in held.items():
        before = answer_nats(model, tokenizer, documents).mean
        after = dispatched_nats(two_pass, documents)
        rows.append({"how": "dispatch", "what": what, **_compared(before, after)})
    return rows


def dispatched_nats(two_pass: TwoPass, documents: Sequence[Document]) -> float:
    """Nats per token where each document is read with the expert that its first question is sent to."""
    chosen = two_pass.choose([opening(document) for document in documents])
    nats, tokens = 0.0, 0
    for name in sorted(set(chosen)):
        own = [document for document, to in zip(documents, chosen, strict=True) if to == name]
        with two_pass.using(name):
            found = answer_nats(two_pass.model, two_pass.tokenizer, own)
        nats, tokens = nats + float(found.nats.sum()), tokens + int(found.tokens.sum())
    return nats / tokens


def _mixture_row(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    what: str,
    found: Mixing,
    documents: Sequence[Document],
    names: Sequence[str],
) -> dict[str, Any]:
    before = answer_nats(model, tokenizer, documents).mean
    after = before
    if found.mixture is not None:
        with applied(model, found.mixture):
            after = answer_nats(model, tokenizer, documents).mean
    return {
        "how": "mixture", "what": what, **_compared(before, after), "taken": found.mixture is not None,
        "weights": dict(zip(names, found.weights, strict=True)), "evaluations": found.evaluations,
        "selection_base_nats": found.base_nats, "selection_mixture_nats": found.mixture_nats,
    }  # fmt: skip


def _compared(before: float, after: float) -> dict[str, float]:
    return {"base_nats": before, "nats": after, "gain_fraction": (before - after) / before if before else 0.0}


def _in_turn(groups: Sequence[Sequence[Document]]) -> list[Document]:
    """The first of each, the second of each, and so on, as long as all have one."""
    return [document for row in zip(*groups, strict=False) for document in row]

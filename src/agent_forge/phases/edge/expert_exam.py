"""What experts, their dispatch and their mixtures are worth, on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.dispatch import TwoPass
from agent_forge.data.documents import Document, Split
from agent_forge.evaluation.answer_nats import answer_nats
from agent_forge.model.expert_vectors import Basis, Expert, applied, identity
from agent_forge.phases.edge.expert_lesson import Standing, Teacher
from agent_forge.phases.edge.mixture import FEWEST, Mixing, search_mixture
from agent_forge.phases.edge.skills import Examples, Skill, opening

BLEND, ORDINARY = "all skills together", "ordinary text"
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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    experts: Sequence[Expert],
    shown: Mapping[str, Sequence[Sequence[Document]]],
    held: Mapping[str, Sequence[Document]],
    *,
    generator: torch.Generator,
    population: int,
    generations: int,
) -> list[dict[str, Any]]:
    """Searches a mixture for each task, and measures it.

    Args:
        model, tokenizer: the base.
        experts: of it, at least one.
        shown: task → examples of the selection split, by skill.
        held: task → documents of the test split.
        generator, population, generations: of the search.

    Returns:
        A row for each: ``how``, ``what``, nats per token of base and mixture on the test split, and ``gain_fraction``:
        what is saved of the base's nats, below zero where the mixture is worse. With too few examples nothing is
        searched (``evaluations`` 0), and it is the base's.
    """
    rows = []
    for what, examples in shown.items():
        found = Mixing((0.0,) * len(experts))
        if sum(map(len, examples)) >= FEWEST:
            found = search_mixture(
                model, tokenizer, experts, examples,
                generator=generator, population=population, generations=generations,
            )  # fmt: skip
        rows.append(_mixture_row(model, tokenizer, what, found, held[what], [expert.name for expert in experts]))
    return rows


def tasks_of(
    skills: Sequence[Skill], everyday: Mapping[Split, Examples]
) -> tuple[dict[str, list[list[Document]]], dict[str, list[Document]]]:
    """What mixtures are searched for and measured on: all skills together, of each as much, and ordinary text, if any.

    Returns:
        By task the few examples of the selection split, by skill or domain; and documents of the test split.
    """
    groups = {split: [getattr(skill, split).documents for skill in skills] for split in ("selection", "test")}
    least = {split: min(map(len, each)) for split, each in groups.items()}
    few = min(least["selection"], max(1, _FEW // len(skills)))
    shown = {BLEND: [list(each[:few]) for each in groups["selection"]]}
    held = {BLEND: [document for each in groups["test"] for document in each[: least["test"]]]}
    if everyday["selection"].documents and everyday["test"].documents:
        domains: dict[str, list[Document]] = {}
        for document in everyday["selection"].documents[:_FEW]:
            domains.setdefault(document.domain, []).append(document)
        shown[ORDINARY], held[ORDINARY] = list(domains.values()), list(everyday["test"].documents)
    return shown, held


def dispatch_rows(two_pass: TwoPass, held: Mapping[str, Sequence[Document]]) -> list[dict[str, Any]]:
    """As `mixtures`, for documents that are read with the expert that each is sent to."""
    rows = []
    for what, documents in held.items():
        before = answer_nats(two_pass.model, two_pass.tokenizer, documents).mean
        rows.append({"how": "dispatch", "what": what, **_compared(before, dispatched_nats(two_pass, documents))})
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

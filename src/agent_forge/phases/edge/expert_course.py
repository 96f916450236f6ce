"""All experts of a model: skills in turn, what helps is kept, and everything is measured once.

The number of experts follows from the data: a skill that the model has already is left out before it costs anything,
and an expert that saves no nats on the selection split is dropped (premortem PR7).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.dispatch import BASE, Dispatcher, TwoPass, fit_dispatcher, question_features, with_bar
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Split
from agent_forge.model.expert_vectors import Basis, Expert, basis_of, digest_of_matrices, save_experts
from agent_forge.model.roles import quantizable_linears
from agent_forge.phases.edge.expert_exam import (
    BLEND,
    dispatch_accuracy,
    dispatch_rows,
    identity_holds,
    mixtures,
    skill_rows,
    tasks_of,
)
from agent_forge.phases.edge.expert_lesson import ExpertSettings, Keep, Lesson, Observe, Standing, Teacher
from agent_forge.phases.edge.skills import Examples, Skill, gather, opening, ordinary

_CLASSIFIED = 96
_UNADAPTABLE = "{} has no linear layer in its body that could be adapted"


@dataclass(frozen=True)
class Experts:
    """What `train_experts` gives.

    Attributes:
        experts: those that are kept, best first.
        basis: of the model.
        dispatcher: of questions; None without experts, or where the skills leave no ordinary text to tell them from.
        skipped: skill → why it has no expert.
        measured: figures for gates, of the test split.
        page: JSON for a report: lessons, skills, dispatch, mixtures.
    """

    experts: list[Expert]
    basis: Basis
    dispatcher: Dispatcher | None
    skipped: dict[str, str]
    measured: dict[str, float]
    page: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> list[dict[str, float]]:
        """What a design may name: none of them, each alone, and the mixtures that were taken; weight by expert."""
        taken = [row["weights"] for row in self.page.get("mixtures", []) if row.get("taken")]
        every = [{}, *({expert.name: 1.0} for expert in self.experts), *taken]
        named = [{name: weight for name, weight in each.items() if weight} for each in every]
        return [each for place, each in enumerate(named) if each not in named[:place]]

    def save(self, folder: Path) -> Path | None:
        """Writes ``experts.safetensors`` into a checkpoint folder; None, and no file, without experts."""
        if not self.experts:
            return None
        return save_experts(
            folder, self.experts, self.basis, more=self.dispatcher.to_tensors() if self.dispatcher else None
        )


def train_experts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    *,
    skills: Sequence[str],
    settings: ExpertSettings,
    seed: int,
    most: int = 10,
    head_room: float = 0.95,
    population: int = 8,
    generations: int = 3,
    saved: Mapping[str, Any] | None = None,
    keep: Keep = lambda state, step: None,
    observe: Observe = lambda figures, step: None,
) -> Experts:
    """Trains an expert for each skill that has room for one, and measures them.

    Args:
        model: the base, in evaluation mode; its weights are not changed.
        tokenizer: its tokenizer.
        corpus: ordinary text, and the skills ``corpus/DOMAIN``.
        skills: candidates, of `agent_forge.phases.edge.skills.skill_names`.
        settings: of the training.
        seed: of everything.
        most: experts that are kept at most, those that save the largest share of nats.
        head_room: a skill of whose questions so many are answered right without an expert gets none.
        population, generations: of the search for mixtures.
        saved: the newest state that ``keep`` was given, to go on from.
        keep: takes states (nested mappings of tensors, numbers and text) and a step; may raise to stop.
        observe: curves.

    Raises:
        ValueError: an unknown skill, or a skill without examples.
    """
    model.requires_grad_(False)
    why = "" if any(quantizable_linears(model)) else _UNADAPTABLE.format(type(model).__name__)
    refused = dict.fromkeys(skills if why else (), why)
    skills = [name for name in skills if name not in refused]
    basis = basis_of(model, settings.rank) if skills else Basis({}, digest_of_matrices({}))
    teacher = Teacher(model, tokenizer, basis, settings, seed=seed, observe=observe)
    told, everyday = _gathered(corpus, skills, settings, seed)
    lessons = _lessons(teacher, told, saved or {}, keep, head_room)
    experts, skipped = _chosen(lessons, basis, most)
    skipped |= refused
    probe = torch.tensor([_probe(tokenizer, [everyday["test"], *(skill.test for skill in told.values())])])
    measured = {
        "edge/experts": float(len(experts)),
        "edge/expert_parameters": float(basis.num_parameters),
        "edge/expert_identity_exact": float(identity_holds(model, basis, probe.to(teacher.device))),
    }
    page: dict[str, Any] = {"lessons": {name: each["row"] for name, each in lessons.items()}, "skipped": skipped}
    if not experts:
        return Experts([], basis, None, skipped, measured, page)
    dispatcher = _dispatcher(teacher, experts, told, everyday)
    figures, shown = _examined(
        teacher, experts, dispatcher, told, everyday, population=population, generations=generations
    )
    measured |= figures | _stages([lessons[expert.name]["row"] for expert in experts])
    return Experts(experts, basis, dispatcher, skipped, measured, page | shown)


def _gathered(
    corpus: Corpus, skills: Sequence[str], settings: ExpertSettings, seed: int
) -> tuple[dict[str, Skill], dict[Split, Examples]]:
    """The skills by name, and what is none of them by split."""
    counts: dict[Split, int] = {
        "train": settings.train_documents, "selection": settings.selection_documents, "test": settings.test_documents
    }  # fmt: skip
    told = {name: gather(name, corpus, seed=seed, levels=settings.levels, counts=counts) for name in skills}
    counts["train"] = _CLASSIFIED
    return told, {split: ordinary(corpus, split, count, without=skills) for split, count in counts.items()}


def _examined(
    teacher: Teacher,
    experts: Sequence[Expert],
    dispatcher: Dispatcher | None,
    told: Mapping[str, Skill],
    everyday: Mapping[Split, Examples],
    *,
    population: int,
    generations: int,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures of the test split, and their page."""
    model, tokenizer = teacher.model, teacher.tokenizer
    rows = skill_rows(teacher, experts, told)
    shown, held = tasks_of([told[expert.name] for expert in experts], everyday)
    mixed = mixtures(
        model, tokenizer, experts, shown, held, generator=torch.Generator().manual_seed(teacher.seed),
        population=population, generations=generations,
    )  # fmt: skip
    figures = _figures(rows) | {
        "edge/mixtures_taken": float(sum(row["taken"] for row in mixed)),
        "edge/mixture_gain_fraction": next(row["gain_fraction"] for row in mixed if row["what"] == BLEND),
    }
    sent: dict[str, dict[str, float]] = {}
    if dispatcher is not None:
        two_pass = TwoPass(model, tokenizer, experts, dispatcher)
        asked = {BASE: everyday["test"]} | {expert.name: told[expert.name].test for expert in experts}
        figures["edge/dispatch_accuracy"], sent = dispatch_accuracy(two_pass, asked)
        mixed += dispatch_rows(two_pass, held)
    figures["edge/mixture_worst_gain_fraction"] = min(row["gain_fraction"] for row in mixed)
    skills = {name: {who: each.to_json() for who, each in row.items()} for name, row in rows.items()}
    return figures, {"skills": skills, "dispatch": sent, "mixtures": mixed}


def _lessons(
    teacher: Teacher, told: Mapping[str, Skill], saved: Mapping[str, Any], keep: Keep, head_room: float
) -> dict[str, dict[str, Any]]:
    """By skill ``vectors`` (empty where there was no lesson) and ``row``, from where ``saved`` stands to the end."""
    finished: dict[str, dict[str, Any]] = {
        name: {"vectors": dict(entry["vectors"]), "row": json.loads(entry["row"])}
        for name, entry in saved.get("finished", {}).items()
    }
    running = saved.get("running", {})
    length = teacher.settings.steps + teacher.settings.policy_steps
    for place, (name, skill) in enumerate(told.items()):
        if name in finished:
            continue
        first = place * length

        def keep_running(state: Mapping[str, Any], step: int, name: str = name) -> None:
            keep({"finished": _stored(finished), "running": {"name": name, "state": state}}, step)

        base = teacher.standing(skill.selection)
        if base.accuracy is not None and base.accuracy >= head_room:
            finished[name] = {"vectors": {}, "row": {"base": base.to_json(), "skipped": "no head-room"}}
        else:
            state = running.get("state") if running.get("name") == name else None
            lesson = teacher.teach(skill, base=base, saved=state, keep=keep_running, first=first)
            finished[name] = {"vectors": dict(lesson.vectors), "row": _row(lesson)}
        keep({"finished": _stored(finished), "running": {}}, first + length)
    return finished


def _stored(finished: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {name: {"vectors": row["vectors"], "row": json.dumps(row["row"])} for name, row in finished.items()}


def _row(lesson: Lesson) -> dict[str, Any]:
    return lesson.to_json() | {"gain": lesson.gain, "gain_fraction": lesson.gain / lesson.base.nats}


def _chosen(lessons: Mapping[str, Mapping[str, Any]], basis: Basis, most: int) -> tuple[list[Expert], dict[str, str]]:
    """The experts that are kept, and why the others are not."""
    skipped: dict[str, str] = {}
    gains: dict[str, float] = {}
    for name, lesson in lessons.items():
        row = lesson["row"]
        if not lesson["vectors"]:
            skipped[name] = f"no head-room: {row['base']['accuracy']:.0%} of its questions are answered right without"
        elif not row["gain"] > 0:
            skipped[name] = f"it saves no nats on the selection split ({-row['gain']:+.4f} per token)"
        else:
            gains[name] = float(row["gain_fraction"])
    ranked = sorted(gains, key=lambda name: (-gains[name], name))
    for name in ranked[most:]:
        skipped[name] = f"{most} others save a larger share of their nats"
    made = []
    for name in ranked[:most]:
        vectors: Mapping[str, Tensor] = lessons[name]["vectors"]
        facts = {"skill": name, "selection": lessons[name]["row"]}
        made.append(Expert(name, {key: z.float() for key, z in vectors.items()}, basis.digest, facts))
    return made, skipped


def _dispatcher(
    teacher: Teacher, experts: Sequence[Expert], told: Mapping[str, Skill], everyday: Mapping[Split, Examples]
) -> Dispatcher | None:
    """The classifier, from questions of the training split; when the base is left is decided on the selection split.

    None where skills take all domains of the corpus: without ordinary text nothing says when the base should answer.
    """
    if not all(examples.documents for examples in everyday.values()):
        return None

    def features(split: Split) -> dict[str, Tensor]:
        asked = {expert.name: getattr(told[expert.name], split) for expert in experts}
        questions = {name: _questions(examples) or _openings(examples) for name, examples in asked.items()}
        # ordinary are questions and beginnings of texts alike: either may come
        questions[BASE] = [*_questions(everyday[split]), *_openings(everyday[split])]
        return {name: question_features(teacher.model, teacher.tokenizer, each) for name, each in questions.items()}

    return with_bar(fit_dispatcher(features("train")), features("selection"))


def _questions(examples: Examples) -> list[str]:
    return [task.prompt for task in examples.tasks[:_CLASSIFIED]]


def _openings(examples: Examples) -> list[str]:
    return [opening(each) for each in examples.documents[:_CLASSIFIED]]


def _probe(tokenizer: PreTrainedTokenizerBase, groups: Sequence[Examples]) -> list[int]:
    """The beginning of the first text that there is."""
    text = next(document.text for examples in groups for document in examples.documents)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])[:96]


def _figures(rows: Mapping[str, Mapping[str, Standing]]) -> dict[str, float]:
    """Gains on the test split, over experts."""
    saved = [(row["base"].nats - row["expert"].nats) / row["base"].nats for row in rows.values()]
    gains = [
        row["expert"].accuracy - row["base"].accuracy
        for row in rows.values()
        if row["expert"].accuracy is not None and row["base"].accuracy is not None
    ]
    figures = {
        "edge/experts_positive": float(sum(value > 0 for value in saved)),
        "edge/expert_nats_saved_fraction": sum(saved) / len(saved),
        "edge/expert_best_nats_saved_fraction": max(saved),
    }
    if gains:
        figures |= {"edge/expert_accuracy_gain": sum(gains) / len(gains), "edge/expert_best_accuracy_gain": max(gains)}
    return figures


def _stages(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Right answers after warm start and REINFORCE on the selection split, means over experts."""
    figures = {}
    for stage in ("warm_start", "reinforce"):
        known = [row[stage]["accuracy"] for row in rows if row[stage] and row[stage]["accuracy"] is not None]
        if known:
            figures[f"edge/{stage}_accuracy"] = sum(known) / len(known)
    return figures

"""What phase 5 measures for its gates, on the test split, of the model that came out of the packed file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.corpora import Corpus
from agent_forge.evaluation.bits_per_byte import mean_bits_per_byte, score_domains
from agent_forge.evaluation.statistics import surely_lost
from agent_forge.phases.forge.config import ForgePhaseConfig
from agent_forge.phases.forge.course import Course
from agent_forge.phases.forge.examiner import Examiner, shares
from agent_forge.phases.forge.questions import Question
from agent_forge.phases.forge.self_modelling import (
    complexity,
    confidence,
    expected_calibration_error,
    fit_confidence,
    question_states,
)

# From this improvement between the last two stages on, training had not come to rest.
_STILL_MOVING = 0.05


def measure(
    config: ForgePhaseConfig,
    course: Course,
    trained: PreTrainedModel,
    source: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures for gates, and accuracies by level for the report.

    Args:
        config: of the phase.
        course: finished.
        trained: from the packed file.
        source: the input of the phase.
        tokenizer: of both.
        corpus: ordinary text.
    """
    last = course.edge if config.sampling != "uniform" else config.top_level
    covered = {n: course.tested[n] for n in course.levels if n <= last and course.tested[n]}
    after = Examiner(trained, tokenizer, course.practice.questions, config.answer_tokens)
    before = Examiner(source, tokenizer, course.practice.questions, config.answer_tokens)
    answers, answers_before = after.answers(covered), before.answers(covered)
    correct = np.asarray([right for each in answers.values() for right in each], bool)
    found, given = shares(answers), shares(answers_before)
    losses = [each.answer_loss(covered, config.sequence_length) for each in (before, after)]
    measured = {
        "forge/levels_passed": float(len(course.passed)),
        "forge/edge": float(course.edge),
        "forge/accuracy": float(np.mean(list(found.values()))),
        "forge/accuracy_of_input": float(np.mean(list(given.values()))),
        "forge/answer_loss": losses[1],
        "forge/answer_loss_of_input": losses[0],
        "forge/curriculum_loss_reduction": 1 - losses[1] / losses[0],
        "forge/forgetting_points": forgetting(course.when_passed, answers_before, answers, lost),
        "forge/sure_forgetting_points": forgetting(course.when_passed, answers_before, answers, surely_lost),
        "forge/converged": converged(course.rows),
        "forge/restores": float(sum(row["restores"] for row in course.rows)),
    }
    if course.passed:
        measured["forge/passed_accuracy"] = min(found[n] for n in sorted(course.passed) if n in found)
    measured |= ordinary_text(config, trained, source, tokenizer, corpus)
    measured |= calibration(after, course.watched, covered, correct)
    page = {
        "stages": course.rows,
        "test_accuracy": {str(n): rate for n, rate in found.items()},
        "test_accuracy_of_input": {str(n): rate for n, rate in given.items()},
        "test_accuracy_when_passed": {str(n): rate for n, rate in shares(course.when_passed).items()},
        "alarms": course.stability.history,
    }
    return measured, {**page, "measured": measured}


Answers: TypeAlias = Mapping[int, Sequence[bool]]
"""Right or wrong, question by question, by level."""


def forgetting(
    when_passed: Answers,
    given: Answers,
    found: Answers,
    measure: Callable[[Sequence[bool], Sequence[bool]], float],
) -> float:
    """Points of accuracy lost on the test split, at least 0.

    The larger of two means: over passed levels since they were passed, and over all levels since the phase began. A
    level that gained pays for none that lost more than it.

    Args:
        when_passed, given, found: answers when a level was passed, when the phase began, and now.
        measure: loss from one row of answers to another, as a share.
    """
    means = [
        float(np.mean([max(measure(then[n], found[n]), 0.0) for n in then if n in found] or [0.0]))
        for then in (when_passed, given)
    ]
    return 100 * max(means)


def lost(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Right answers lost, less those gained, as a share."""
    return (sum(before) - sum(after)) / len(before)


def converged(rows: Sequence[Mapping[str, Any]]) -> float:
    """1 where the loss at the edge fell by less than 5% between the last two stages with the same edge, else 0."""
    losses = [row["answer_loss"] for row in rows if row["edge"] == rows[-1]["edge"]] if rows else []
    return float(len(losses) >= 2 and (losses[-2] - losses[-1]) / max(losses[-2], 1e-12) < _STILL_MOVING)


def ordinary_text(
    config: ForgePhaseConfig,
    trained: PreTrainedModel,
    source: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
) -> dict[str, float]:
    """Bits per byte of the corpus's test split, and against the phase's input."""
    bits = [
        mean_bits_per_byte(score_domains(model, tokenizer, corpus, "test", config.test_documents))
        for model in (trained, source)
    ]
    return {"forge/bits_per_byte": bits[0], "forge/bits_per_byte_ratio": bits[0] / bits[1]}


def calibration(
    examiner: Examiner,
    fitted_on: Mapping[int, Sequence[Question]],
    asked: Mapping[int, Sequence[Question]],
    correct: np.ndarray,
) -> dict[str, float]:
    """Does the model know what it knows? Confidence fitted on the selection split, judged on the test split.

    ``correct`` says of each question of ``asked``, in its order, whether the model answered it right.
    """
    model, tokenizer = examiner.student, examiner.tokenizer
    fitting, judged = ([question for level in asked for question in source[level]] for source in (fitted_on, asked))
    states, new = (
        question_states(model, tokenizer, [question.task.prompt for question in every]) for every in (fitting, judged)
    )
    right = torch.from_numpy(examiner.right(fitting))
    said, truth = confidence(new, fit_confidence(states, right)).numpy(), correct
    base = np.full(len(truth), float(right.float().mean()))
    figures = {
        "forge/calibration_error": expected_calibration_error(said, truth),
        "forge/brier": float(np.mean((said - truth) ** 2)),
        "forge/brier_of_mean": float(np.mean((base - truth) ** 2)),
    }
    return figures | complexity(model, new)

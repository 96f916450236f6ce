"""Ordinary text in the batches: read whole, and held to the model that came in."""

import pytest
import torch

from agent_forge.data.corpora import Corpus
from agent_forge.data.packing import IGNORED
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary_checkpoint import thaw_student
from agent_forge.model.ternary_selection import special_rows
from agent_forge.phases.forge.config import ForgePhaseConfig
from agent_forge.phases.forge.phase import make_course
from agent_forge.phases.forge.practice import Plan, ordinary_rows
from agent_forge.pipeline.memory_context import MemoryContext

CONFIG = ForgePhaseConfig(
    stages=1, stage_steps=4, domains=("drills",), top_level=2, questions=40, batch_size=8, sequence_length=48,
    text_fraction=0.5, validation_questions=2, test_questions=2, precision="fp32", learning_rate=1e-2,
    other_learning_rate=1e-2,
)  # fmt: skip
PLAN = Plan(0, 1, {"": {1: 0.5, 2: 0.5}}, {1: 0, 2: 0})


@pytest.fixture
def course_of(folders, tmp_path):
    def make(**changes):
        student, tokenizer = load_model(folders / "model")
        selection, frozen = thaw_student(student, tokenizer)
        context = MemoryContext(tmp_path / str(len(list(tmp_path.iterdir()))), seed=1)
        corpus, rows = Corpus.open(folders / "corpus"), special_rows(selection)
        config = CONFIG.model_copy(update=changes)
        return make_course(config, context, student, tokenizer, selection, frozen, rows, corpus)

    return make


def test_ordinary_text_is_predicted_whole_and_practice_from_the_answer_on(course_of):
    course = course_of()
    batches, _ = course.practice.batches(PLAN)
    user = course.practice.tokenizer.convert_tokens_to_ids("<|user|>")
    asked = {True: 0, False: 0}
    shares = []
    for number in range(40):
        batch = course.batch(batches, number)
        shares.append(float(batch["ordinary"].float().mean()))
        for row in range(8):
            ids, labels = batch["input_ids"][row], batch["labels"][row]
            # the token behind each mark of a user's turn: is it learned?
            behind = [place + 1 for place in range(47) if int(ids[place]) == user]
            learned = sum(int(labels[place]) != IGNORED for place in behind)
            ordinary = bool(batch["ordinary"][row])
            asked[ordinary] += len(behind)
            assert learned == (len(behind) if ordinary else 0)
    assert asked[True] > 0
    assert asked[False] > 0
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.03)
    assert ordinary_rows(batches, 3).tolist() == course.batch(batches, 3)["ordinary"].tolist()


def test_the_divergence_is_zero_at_first_and_grows_with_every_step_away(course_of):
    course = course_of()
    batch = course.batch(course.practice.batches(PLAN)[0], 0)
    assert bool(batch["ordinary"].any())
    _, parts = course.learner._loss(batch, batch["labels"])
    assert parts["forge/hold_divergence"] == pytest.approx(0.0, abs=1e-5)
    for _ in range(3):
        course.learner.step(batch, rate=1.0, generator=torch.Generator())
    assert course.learner._loss(batch, batch["labels"])[1]["forge/hold_divergence"] > 1e-4
    before = course.learner.before
    assert not any(parameter.requires_grad for parameter in before.parameters())


def test_only_ordinary_rows_are_held(course_of):
    course = course_of()
    batch = course.batch(course.practice.batches(PLAN)[0], 0)
    none = {**batch, "ordinary": torch.zeros(8, dtype=torch.bool)}
    assert "forge/hold_divergence" not in course.learner._loss(none, batch["labels"])[1]
    assert course_of(hold_weight=0.0).learner.before is None
    assert course_of(text_fraction=0.0).learner.before is None


def test_holding_keeps_the_student_nearer(course_of):
    apart = {}
    for weight in (0.0, 4.0):
        course = course_of(hold_weight=weight)
        batches, _ = course.practice.batches(PLAN)
        for number in range(12):
            course.learner.step(course.batch(batches, number), rate=1.0, generator=torch.Generator())
        course.learner.before = course.learner.before or course_of().learner.before
        course.learner.hold_weight = 1.0
        batch = course.batch(batches, 50)
        apart[weight] = course.learner._loss(batch, batch["labels"])[1]["forge/hold_divergence"]
    assert apart[4.0] < 0.8 * apart[0.0]

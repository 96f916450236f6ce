"""Failures of phase 5, injected for real: CF2 (chaos, a poisoned batch, a rate that spikes, losses that swing, accuracy
that collapses), PR5, RISK-002, RISK-004.
"""

import math

import pytest
import torch

from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.documents import Document, Task
from agent_forge.data.synthetic_world.words import Item, key_of
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.errors import PhaseFailed
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import Layout, TernaryLinear, _WeightEstimator, ternary_linears
from agent_forge.model.ternary_checkpoint import finish_student, save_ternary, thaw_student
from agent_forge.model.ternary_selection import select, special_rows
from agent_forge.phases.forge import dreams, questions
from agent_forge.phases.forge.chaos import LIMIT
from agent_forge.phases.forge.config import ForgePhaseConfig
from agent_forge.phases.forge.course import LOG_EVERY
from agent_forge.phases.forge.phase import make_course
from agent_forge.pipeline.memory_context import MemoryContext

SETTINGS = {
    "stages": 3, "stage_steps": 60, "domains": ("parity",), "top_level": 1, "questions": 120, "sampling": "edge",
    "assessment_questions": 12, "answer_tokens": 6, "sequence_length": 32, "batch_size": 8, "precision": "fp32",
    "learning_rate": 2e-2, "other_learning_rate": 2e-2, "text_fraction": 0.0, "validation_questions": 12,
    "test_questions": 4, "test_documents": 2, "checkpoint_every": 10, "loss_window": 8,
}  # fmt: skip


def parity(seed, number, level):
    """A question that a tiny model learns in seconds: is the last digit even?"""
    n = number % 1000
    asked, answer = f"Is {n} even?", "yes" if n % 2 == 0 else "no"
    task = Task(asked, answer, "parity/even", level, "parity")
    return Item(Document.chat((("user", asked), ("assistant", answer)), "parity", level), (task,), key_of(n))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    ingest(["synthetic"], root / "corpus", seed=0, synthetic_bytes=60_000, levels=(1,))
    texts = [*Corpus.open(root / "corpus").training_texts(40_000), "Is 1 even? yes no"]
    tokenizer = train_tokenizer(texts, 300)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = CognateForCausalLM(CognateConfig(vocab_size=300, sliding_window=32, zero_init_output=False, **shape)).eval()
    for linear in select(model, tokenizer).linears.values():
        TernaryLinear.from_linear(linear, Layout())
    selection = select(model, tokenizer)
    finish_student(model, selection, embedding_bits=32)
    save_ternary(model, tokenizer, root / "model", selection, {"phase": "bitnet"})
    return root


@pytest.fixture
def course_of(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(questions.SOURCES, "parity", parity)

    def make(**changes):
        config = ForgePhaseConfig(**{**SETTINGS, **changes})
        context = MemoryContext(tmp_path / str(len(list(tmp_path.iterdir()))), seed=1)
        student, tokenizer = load_model(folders / "model")
        selection, frozen = thaw_student(student, tokenizer)
        corpus = Corpus.open(folders / "corpus")
        rows = special_rows(selection)
        return make_course(config, context, student, tokenizer, selection, frozen, rows, corpus), context

    return make


def _final_loss(course):
    return course.rows[-1]["answer_loss"]


@pytest.fixture(scope="module")
def undisturbed():
    return {}


def _calm(course_of, undisturbed):
    """The loss of the run that nothing disturbs, trained once."""
    if "loss" not in undisturbed:
        course, context = course_of()
        course.run()
        undisturbed["loss"], undisturbed["warnings"] = _final_loss(course), context.warnings
    return undisturbed["loss"]


def test_cf2_a_poisoned_batch_is_passed_over(course_of, undisturbed):
    calm = _calm(course_of, undisturbed)
    assert undisturbed["warnings"] == []
    course, context = course_of()
    plain = course.learner._loss

    def poisoned(shown, wanted, seen=[0]):  # noqa: B006
        seen[0] += 1
        loss, parts = plain(shown, wanted)
        return (loss * math.nan, {"forge/loss": math.nan}) if seen[0] == 25 else (loss, parts)

    course.learner._loss = poisoned
    course.run()
    assert [failure for failure, _, _ in context.warnings] == ["CF2"]
    assert "not finite" in context.warnings[0][1]
    assert course.rows[0]["restores"] == 1
    assert all(bool(p.isfinite().all()) for p in course.learner.student.parameters())
    # never worse than the run that nothing disturbed by more than 2% of what was learned
    start = math.log(300)
    assert _final_loss(course) - calm < 0.02 * (start - calm)


def test_cf2_a_rate_that_spikes_a_hundredfold_is_turned_back(course_of, undisturbed):
    calm = _calm(course_of, undisturbed)
    course, context = course_of()
    plain = course._rate

    def spiking(steps=[0]):  # noqa: B006
        steps[0] += 1
        return plain() * (100 if 20 <= steps[0] < 28 else 1)

    course._rate = spiking
    course.run()
    assert {failure for failure, _, _ in context.warnings} == {"CF2"}
    assert sum(row["restores"] for row in course.rows) >= 1
    assert _final_loss(course) - calm < 0.02 * (math.log(300) - calm)


def test_cf2_a_rate_that_stays_too_high_stops_with_its_diagnosis(course_of):
    course, context = course_of()
    course._rate = lambda: 3000.0
    with pytest.raises(PhaseFailed, match="after three returns") as caught:
        course.run()
    assert "lower forge.learning_rate" in str(caught.value)
    assert len(context.warnings) == 4


def test_cf2_chaos_of_0_6_is_held_at_its_limit_and_the_run_recovers(course_of, undisturbed):
    calm = _calm(course_of, undisturbed)
    course, context = course_of(chaos=0.0)
    plain = course.learner.step

    used = []

    def disturbed(*arguments, seen=[0], **options):  # noqa: B006
        seen[0] += 1
        if seen[0] == 75:  # in the second of three stages
            course.chaos.value = 0.6
        used.append(options["chaos"])
        return plain(*arguments, **options)

    course.learner.step = disturbed
    course.run()
    assert course.chaos.refused == 1
    assert max(used) == LIMIT
    assert 0 < sum(chaos > 0 for chaos in used) <= LOG_EVERY
    assert max(metrics.get("forge/chaos", 0.0) for _, metrics in context.logged) <= LIMIT
    assert math.isfinite(_final_loss(course))
    assert _final_loss(course) - calm < 0.02 * (math.log(300) - calm)


def test_cf2_accuracy_that_collapses_within_a_stage_is_turned_back(course_of, undisturbed):
    calm = _calm(course_of, undisturbed)
    course, context = course_of()
    plain, asked = course._end_stage, []

    def ruined():
        # The injection: once the level is passed, the weights are ruined behind the watch on losses.
        if course.best and not asked:
            asked.append(course.stage)
            with torch.no_grad():
                for parameter in course.learner.student.parameters():
                    parameter.zero_()
        return plain()

    course._end_stage = ruined
    course.run()
    assert asked, "no stage passed the level, so nothing could collapse"
    assert [failure for failure, _, _ in context.warnings] == ["CF2"]
    assert "accuracy collapse" in context.warnings[0][1]
    assert course.rows[asked[0]]["restores"] == 1
    assert _final_loss(course) - calm < 0.02 * (math.log(300) - calm)


def test_cf2_losses_that_swing_are_turned_back(course_of):
    course, context = course_of()
    plain = course.learner._loss

    def swinging(shown, wanted, seen=[0]):  # noqa: B006
        # The injection: for ten steps every second batch asks for something else than the one before.
        seen[0] += 1
        if 100 <= seen[0] < 110 and seen[0] % 2:
            valid = wanted != -100
            wanted = torch.where(valid, (wanted + 137) % 300, wanted)
        return plain(shown, wanted)

    course.learner._loss = swinging
    course.run()
    assert {failure for failure, _, _ in context.warnings} == {"CF2"}
    assert "loss variance" in context.warnings[0][1]
    assert all(bool(p.isfinite().all()) for p in course.learner.student.parameters())


def test_pr5_a_dream_that_is_wrong_is_never_trained_on(course_of, monkeypatch):
    course, _ = course_of(dream_band=(1.0, 1e9))
    course.run()
    before = {name: p.detach().clone() for name, p in course.learner.student.named_parameters()}
    known = {1: course.watched[1]}
    # The injection: whatever is dreamt is a lie.
    monkeypatch.setattr(
        "agent_forge.phases.forge.own_answers.generate_rows",
        lambda model, tokenizer, prompts, *rest, **options: [
            tokenizer("maybe", add_special_tokens=False)["input_ids"] for _ in prompts
        ],
    )
    result = course.night.sleep(0, known, rate=1.0)
    assert result.asked > 0
    assert result.verified == result.kept == 0
    assert all(torch.equal(p, before[name]) for name, p in course.learner.student.named_parameters())


def test_pr5_a_dream_that_costs_is_undone_and_dreams_become_rarer(course_of, monkeypatch):
    course, context = course_of(dream_every=1, dream_band=(1.0, 1e9), dream_fraction=0.5, stages=1, stage_steps=120)
    # The injection: the checker lets every dream through, and the night trains far too hard on it.
    monkeypatch.setattr("agent_forge.phases.forge.own_answers.verified", lambda task, said: True)
    plain, seen = course.night.sleep, {}

    def hard(stage, known, *, rate):
        seen["before"] = {name: p.detach().clone() for name, p in course.learner.student.named_parameters()}
        return plain(stage, {1: course.watched[1]}, rate=500.0)

    course.night.sleep = hard
    course.run()
    dream = course.rows[0]["dream"]
    assert dream["kept"] > 0
    assert dream["after"] < dream["before"]
    assert dream["undone"]
    assert "PR5" in {failure for failure, _, _ in context.warnings}
    assert course.rhythm.every == 2
    assert all(torch.equal(p, seen["before"][name]) for name, p in course.learner.student.named_parameters())


def test_risk_004_learning_stalls_without_the_estimator_and_is_reported(course_of, monkeypatch, undisturbed):
    calm = _calm(course_of, undisturbed)
    # The injection: an estimator whose backward passes nothing on.
    monkeypatch.setattr(
        _WeightEstimator, "backward", staticmethod(lambda ctx, *gradients: (torch.zeros_like(gradients[0]), None, None))
    )
    course, context = course_of(train_embeddings=False)
    before = {name: course.learner.student.get_parameter(name).detach().clone() for name in _latent(course)}
    course.run()
    assert "RISK-004" in {failure for failure, _, _ in context.warnings}
    assert all(torch.equal(course.learner.student.get_parameter(name), value) for name, value in before.items())
    assert _final_loss(course) > calm + 0.2


def test_risk_002_special_rows_are_put_back_and_would_move_without(course_of):
    moved = {}
    for guarded in (True, False):
        course, _ = course_of(stages=1, stage_steps=10)
        training, tables = course.learner.training, dict(course.learner.student.named_parameters())
        before = {name: tables[name].detach()[list(rows)].clone() for name, (rows, _) in training.protected.items()}
        assert before
        if not guarded:  # The injection: nobody puts the rows back.
            training.put_back = lambda: None
        course.run()
        after = {name: tables[name].detach()[list(rows)] for name, (rows, _) in training.protected.items()}
        moved[guarded] = any(not torch.equal(after[name], rows) for name, rows in before.items())
    assert moved == {True: False, False: True}


def _latent(course):
    return list(ternary_linears(course.learner.student))


def test_the_dreams_that_are_kept_are_at_most_half(course_of):
    course, _ = course_of()
    assert dreams.share_of_dreams(10**6, 1) == 0.5
    documents = [question.worked for question in course.watched[1]]
    batches = course.practice.dream_batches(documents, documents, 0.5, 0)
    rows = [batches.window_of(row)[0] for row in range(1024)]
    assert rows.count("dream") <= 512

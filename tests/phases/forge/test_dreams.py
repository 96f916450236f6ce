import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.data.documents import Document
from agent_forge.evaluation.bits_per_byte import score
from agent_forge.evaluation.tasks import prompt_ids
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import ternary_linears
from agent_forge.model.ternary_checkpoint import thaw_student
from agent_forge.phases.forge.checker import verified
from agent_forge.phases.forge.dreams import (
    REAL_FRACTION,
    Rhythm,
    anchored_loss,
    answer_perplexities,
    copy_of,
    dream,
    share_of_dreams,
)
from agent_forge.phases.forge.questions import Questions


def test_the_rhythm_slows_down_where_dreams_cost():
    rhythm = Rhythm(1)
    assert [rhythm.due(stage) for stage in range(3)] == [True, True, True]
    assert rhythm.after(0.8, 0.79, 0.02) == rhythm
    slower = rhythm.after(0.8, 0.7, 0.02)
    assert (slower.every, slower.undone) == (2, 1)
    assert [slower.due(stage) for stage in range(4)] == [False, True, False, True]
    assert not Rhythm(0).due(0)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 1000))
def test_at_least_half_is_real(dreams, real):
    share = share_of_dreams(dreams, real)
    assert 0 <= share <= 1 - REAL_FRACTION
    assert share == pytest.approx(min(0.5, dreams / (dreams + real)))


def test_a_dream_without_anything_real_is_refused():
    with pytest.raises(ValueError, match="refused"):
        share_of_dreams(5, 0)


def test_the_anchored_loss_by_hand():
    logits, reference = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    loss, divergence = anchored_loss(logits, reference, torch.tensor([0]), divergence_weight=2.0)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert divergence == pytest.approx(expected, rel=1e-5)
    assert float(loss) == pytest.approx(math.log(2) + 2 * expected, rel=1e-5)
    same, nothing = anchored_loss(reference, reference, torch.tensor([0]), divergence_weight=2.0)
    assert nothing == pytest.approx(0, abs=1e-7)
    assert float(same) == pytest.approx(float(F.cross_entropy(reference, torch.tensor([0]))))


def test_perplexities_are_those_of_the_answer_alone(folders):
    model, tokenizer = load_model(folders / "model")
    document = Document.chat((("user", "3 + 4 = ?"), ("assistant", "3 + 4 = 7")))
    (prompt,) = prompt_ids(tokenizer, ["3 + 4 = ?"])
    (found,) = answer_perplexities(model, tokenizer, [(prompt, document)])
    whole = score(model, tokenizer, [document])
    question = score(model, tokenizer, [Document.chat((("user", "3 + 4 = ?"),))])
    # the question's tokens and the mark before the answer are given, not judged
    given_mark = whole.nats_per_document[0] - question.nats_per_document[0]
    tokens = whole.tokens - question.tokens - 1
    assert math.log(found) * tokens <= given_mark + 1e-4
    assert found > 1


def test_only_what_verifies_and_lies_in_the_band_is_kept(folders):
    model, tokenizer = load_model(folders / "model")
    questions = Questions(0, ("drills",)).draw(1, "train", 48)[0]
    everything = dream(model, tokenizer, questions, band=(1.0, 1e9), max_tokens=20, seed=0)
    assert everything.asked == 48
    assert len(everything.kept) == everything.verified
    by_prompt = {q.task.prompt: q.task for q in questions}
    assert all(verified(by_prompt[d.turns[0][1]], d.turns[1][1]) for d in everything.kept)
    nothing = dream(model, tokenizer, questions, band=(1e8, 1e9), max_tokens=20, seed=0)
    assert nothing.kept == []
    assert nothing.verified == everything.verified
    assert dream(model, tokenizer, [], band=(1, 2), max_tokens=4, seed=0).asked == 0


def test_the_model_before_the_dream_is_another_one(folders):
    model, tokenizer = load_model(folders / "model")
    thaw_student(model, tokenizer)
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
    before = copy_of(model)
    with torch.no_grad():
        next(iter(ternary_linears(model).values())).weight.zero_()
        assert torch.equal(before(ids, use_cache=False).logits, expected)
    assert not any(p.requires_grad for p in before.parameters())

"""Prompt baking: the divergence, the alignment of both sides, half-baking, sampling."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.data.tokenizer import Encoded
from agent_forge.optim import prompt_baking as pb


def _model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def _pairs() -> list[pb.Pair]:
    made = []
    for first, said in ((5, [7, 8, 2]), (6, [9, 2])):
        plain = pb.spoken([1, first], said)
        made.append(pb.align(pb.spoken([1, 30, 31, first], said), plain))
    return made


def test_the_divergence_by_hand() -> None:
    # teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4): ½ ln 2 + ¼ ln ½ = ¼ ln 2
    teacher = torch.tensor([[0.5, 0.25, 0.25]]).log()
    student = torch.tensor([[0.25, 0.5, 0.25]]).log()
    found = pb.divergence(student, pb.teacher_targets(teacher))
    assert found.item() == pytest.approx(0.25 * math.log(2), abs=1e-6)
    # kept: the first token (½ against ¼) and the rest (½ against ¾)
    cut = pb.divergence(student, pb.teacher_targets(teacher, top_k=1))
    assert cut.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75), abs=1e-6)


def test_parity_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 9, 17, generator=generator, dtype=torch.float32) * 4
    wanted = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(pb.divergence(student, pb.teacher_targets(teacher)), wanted, rtol=1e-5, atol=1e-6)
    every = pb.teacher_targets(teacher, top_k=17)
    assert every.tokens is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 11), st.floats(0.1, 30.0))
def test_fewer_events_never_show_more(seed: int, top_k: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, 3, 12, generator=generator) * scale
    whole = pb.divergence(student, pb.teacher_targets(teacher))
    cut = pb.divergence(student, pb.teacher_targets(teacher, top_k=top_k))
    assert bool((cut >= -1e-4).all())
    assert bool((cut <= whole * (1 + 1e-4) + 1e-4).all())
    torch.testing.assert_close(
        pb.divergence(teacher, pb.teacher_targets(teacher, top_k=top_k)), torch.zeros(3), rtol=0, atol=1e-4
    )


def test_a_certain_teacher_has_a_finite_gradient() -> None:
    teacher = torch.tensor([[0.0, -math.inf, -math.inf]])
    student = torch.zeros(1, 3, requires_grad=True)
    for top_k in (0, 1, 2):
        loss = pb.divergence(student, pb.teacher_targets(teacher, top_k=top_k)).sum()
        assert loss.item() == pytest.approx(math.log(3), abs=1e-5)
        (gradient,) = torch.autograd.grad(loss, student)
        assert bool(gradient.isfinite().all())


def test_alignment_matches_own_tokens() -> None:
    prompted = Encoded([1, 30, 31, 5, 7, 8, 2, 6, 9, 2], [True] * 4 + [False] * 3 + [True] + [False] * 2)
    plain = Encoded([1, 5, 7, 8, 2, 6, 9, 2], [True] * 2 + [False] * 3 + [True] + [False] * 2)
    pair = pb.align(prompted, plain)
    assert pair.prompted_places == (4, 5, 6, 8, 9)
    assert pair.plain_places == (2, 3, 4, 6, 7)


def test_other_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="from number 1 on"):
        pb.align(pb.spoken([1, 30], [7, 8, 2]), pb.spoken([1], [7, 9, 2]))
    with pytest.raises(ValueError, match="nothing to bake"):
        pb.align(Encoded([1, 2], [True, True]), Encoded([1, 2], [True, True]))


def test_targets_do_not_depend_on_batches_or_padding() -> None:
    model, pairs = _model(), _pairs()
    together = pb.targets_of(model, pairs, top_k=5, batch_size=8)
    alone = [pb.targets_of(model, [pair], top_k=5)[0] for pair in pairs]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.log_probabilities, other.log_probabilities, rtol=1e-4, atol=1e-5)
    assert [len(entry) for entry in together] == [3, 2]


def test_a_student_that_reads_the_prompt_diverges_by_nothing() -> None:
    model, pairs = _model(), _pairs()
    targets = pb.targets_of(model, pairs, top_k=0)
    assert pb.mean_divergence(model, pairs, targets, prompted=True) == pytest.approx(0, abs=1e-6)
    assert pb.mean_divergence(model, pairs, targets) > 1e-5


def test_baking_moves_the_prompt_into_the_weights() -> None:
    teacher, student, pairs = _model(), _model(), _pairs()
    with torch.no_grad():
        teacher.lm_head.weight.mul_(20)
        student.lm_head.weight.mul_(20)
    targets = pb.targets_of(teacher, pairs, top_k=0)
    before = pb.mean_divergence(student, pairs, targets)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    for _ in range(60):
        loss = pb.baking_loss(student, pairs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert pb.mean_divergence(student, pairs, targets) < 0.1 * before


def test_half_baking_is_a_straight_line() -> None:
    before, after = {"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([1.0, 3.0])}
    assert pb.interpolate(before, after, 0.5)["w"].tolist() == [0.5, 2.0]
    assert torch.equal(pb.interpolate(before, after, 1.0)["w"], after["w"])
    assert torch.equal(pb.interpolate(before, after, 0.0)["w"], before["w"])
    # not the number of epochs: 1.5 is no strength
    with pytest.raises(ValueError, match=r"1\.5"):
        pb.interpolate(before, after, 1.5)
    with pytest.raises(ValueError, match="only on one side"):
        pb.interpolate(before, {}, 0.5)


def test_sampling_follows_the_distribution() -> None:
    model = _model()
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
        expected = model(input_ids=torch.tensor([[1, 5]])).logits[0, -1].softmax(-1)
    drawn = pb.sample_responses(
        model, [[1, 5]] * 600, max_tokens=1, end_id=2, generator=torch.Generator().manual_seed(0), batch_size=300
    )
    counts = torch.bincount(torch.tensor([row[0] for row in drawn]), minlength=40) / 600
    assert float((counts - expected).abs().max()) < 0.07


def test_sampling_is_decided_by_its_generator_and_ends_at_the_end() -> None:
    model = _model()
    options = {"max_tokens": 12, "end_id": 2, "batch_size": 2}
    prompts = [[1, 5, 6], [1], [1, 9]]
    first, second = (
        pb.sample_responses(model, prompts, generator=torch.Generator().manual_seed(3), **options) for _ in range(2)
    )
    assert first == second
    assert all(2 not in row[:-1] for row in first)
    with pytest.raises(ValueError, match="temperature"):
        pb.sample_responses(model, prompts, generator=torch.Generator(), temperature=-1, **options)

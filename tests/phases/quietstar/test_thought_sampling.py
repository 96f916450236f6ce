"""Thoughts in parallel: the mask by hand, and the same numbers as one rollout per position."""

import pytest
import torch
from tests.phases.quietstar.conftest import MARKS, VOCABULARY

from agent_forge.phases.quietstar.thought_sampling import (
    Marks,
    _newest_rows,
    draw,
    place_by_place,
    sample_place_by_place,
    sample_thoughts,
    text_mask,
    think_along,
    thought_mask,
    why_not_parallel,
)

KINDS = {
    "cognate": {},
    "cognate with a window": {"sliding_window": 6, "global_every": 4},
    "cognate with recursion": {"recursion_steps": 2},
    "cognate with convolution": {"short_convolution": 4},
    "cognate with convolution and a window": {"short_convolution": 3, "sliding_window": 6, "global_every": 4},
    "llama": {},
}


def build(make, kind):
    return make(kind.split()[0], **KINDS[kind])


def some_ids(rows=2, length=12, seed=0):
    return torch.randint(5, 58, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_mask_by_hand(make):
    text, positions = text_mask(make(), some_ids(1, 3), None)
    mask = thought_mask(make(), text, positions, torch.tensor([0, 2]), 2)[0, 0].int().tolist()
    assert mask == [
        # t0 t1 t2  a1 b1  a2 b2
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0],
        [1, 0, 0, 1, 0, 1, 0],
        [1, 1, 1, 0, 1, 0, 1],
    ]


def test_the_newest_rows_are_those_of_the_whole_mask(make):
    model, ids = make(sliding_window=5, global_every=3), some_ids()
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 9 + [1] * 3])
    text, positions = text_mask(model, ids, documents)
    places = torch.tensor([1, 6, 9, 11])
    whole = thought_mask(model, text, positions, places, 3)
    assert torch.equal(_newest_rows(model, text, positions, places, 3), whole[:, :, -4:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_one_pass_equals_one_rollout_per_position(make, kind, packed):
    if packed and kind == "llama":
        pytest.skip("Llama takes no document_ids")
    model, ids = build(make, kind), some_ids()
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 9 + [1] * 3]) if packed else None
    thoughts = sample_thoughts(
        model, ids, MARKS, length=3, documents=documents, generator=torch.Generator().manual_seed(3)
    )
    assert thoughts.shape == (2, 12, 3)
    shift = torch.randn(2, 32, generator=torch.Generator().manual_seed(4)) * 0.1
    options = {"talk": 2, "documents": documents, "mark_shift": shift}
    with torch.no_grad():
        fast = think_along(model, ids, thoughts, MARKS, **options)
        slow = place_by_place(model, ids, thoughts, MARKS, **options)
    for name in ("base_logits", "base_hidden", "log_probs", "talk_logits", "talk_hidden"):
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_likeliest_thoughts_equal_one_rollout_per_position(make, kind):
    model, ids, places = build(make, kind), some_ids(), torch.tensor([0, 4, 5, 11])
    fast = sample_thoughts(model, ids, MARKS, length=4, places=places, temperature=0)
    slow = sample_place_by_place(model, ids, MARKS, length=4, places=places, temperature=0)
    assert torch.equal(fast, slow)


def test_a_thought_sees_all_of_its_past_and_nothing_else(make):
    model, ids = make(), some_ids(1)
    thoughts = torch.full((1, 12, 2), 7)
    with torch.no_grad():
        before = think_along(model, ids, thoughts, MARKS, talk=1)
        ids[0, 4], thoughts[0, 8, 0] = 9, 11
        after = think_along(model, ids, thoughts, MARKS, talk=1)
    moved = (before.talk_logits - after.talk_logits).abs().amax((0, 2, 3)) > 1e-6
    assert moved.tolist() == [False] * 4 + [True] * 8  # the text from its changed token on
    thoughts[0, 8, 0] = 7
    with torch.no_grad():
        back = think_along(model, ids, thoughts, MARKS, talk=1)
    moved = (back.talk_logits - after.talk_logits).abs().amax((0, 2, 3)) > 1e-6
    assert moved.tolist() == [n == 8 for n in range(12)]  # a thought changes its own place only


def test_marks_are_never_thought(make):
    drawn = draw(torch.zeros(2000, VOCABULARY), MARKS, 1.0, torch.Generator().manual_seed(0))
    assert not set(drawn.tolist()) & set(MARKS.forbidden)
    assert set(drawn.tolist()) == set(range(VOCABULARY)) - set(MARKS.forbidden)
    with pytest.raises(ValueError, match="generator"):
        draw(torch.zeros(1, VOCABULARY), MARKS, 1.0, None)


def test_draws_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0]).repeat(30000, 1)
    counts = draw(logits, Marks(8, 9, ()), 1.0, torch.Generator().manual_seed(0)).bincount() / 30000
    torch.testing.assert_close(counts, logits[0].softmax(-1), rtol=0, atol=0.01)


ALONG_THE_ROW = [
    ({"memory": "ema"}, "runs along the row"),
    ({"memory": "titans"}, "runs along the row"),
    ({"short_convolution": 3, "sliding_window": 2}, "beyond its window"),
]


@pytest.mark.parametrize(("changes", "why"), ALONG_THE_ROW)
def test_parts_that_run_along_the_row_think_place_by_place(make, changes, why):
    model = make("cognate", **changes)
    assert why in why_not_parallel(model)
    with pytest.raises(ValueError, match="parallel"):
        sample_thoughts(model, some_ids(), MARKS, length=2)
    thoughts = sample_place_by_place(model, some_ids(1, 4), MARKS, length=2, temperature=0)
    found = place_by_place(model, some_ids(1, 4), thoughts, MARKS, talk=2)
    assert found.log_probs.shape == (1, 4, 2)
    assert found.talk_logits.shape == (1, 4, 2, VOCABULARY)


def test_gradients_reach_the_thoughts_and_the_marks(make):
    model, shift = make(), torch.zeros(2, 32, requires_grad=True)
    thoughts = torch.full((1, 12, 2), 7)
    found = think_along(model, some_ids(1), thoughts, MARKS, talk=2, mark_shift=shift)
    (found.log_probs.sum() + found.talk_logits.sum()).backward()
    assert shift.grad is not None
    assert bool((shift.grad.norm(dim=1) > 0).all())


def test_gradients_of_a_convolution_equal_those_of_one_rollout_per_position(make):
    ids, documents = some_ids(2, 8), torch.tensor([[0] * 3 + [1] * 5, [0] * 8])
    thoughts = some_ids(2, 16, seed=1).reshape(2, 8, 2)
    found = {}
    for along in (think_along, place_by_place):
        model = make(short_convolution=4)
        shift = torch.zeros(2, 32, requires_grad=True)
        out = along(model, ids, thoughts, MARKS, talk=2, documents=documents, mark_shift=shift)
        parts = (out.log_probs, out.talk_logits.log_softmax(-1)[..., 7], out.base_logits.log_softmax(-1)[..., 9])
        sum(part.mean() for part in parts).backward()
        found[along] = {name: p.grad for name, p in model.named_parameters()} | {"shift": shift.grad}
    assert any("conv" in name for name in found[think_along])
    for name, gradient in found[think_along].items():
        torch.testing.assert_close(gradient, found[place_by_place][name], rtol=0, atol=1e-5, msg=name)


def test_nothing_to_say_is_refused(make):
    with pytest.raises(ValueError, match="talk is 0"):
        think_along(make(), some_ids(), torch.full((2, 12, 2), 7), MARKS, talk=0)

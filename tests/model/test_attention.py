import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.model.attention import (
    TokenLayout,
    Visibility,
    attend,
    attention_statistics,
    document_positions,
    rotary_table,
    rotate,
)
from agent_forge.model.cache import PRUNE_SLACK


def by_rule(documents, window, global_every):
    """[B, T, T] visibility, one comparison at a time."""
    batch, length = documents.shape
    visible = torch.zeros(batch, length, length, dtype=torch.bool)
    for b in range(batch):
        start = 0
        for i in range(length):
            if i and documents[b, i] != documents[b, i - 1]:
                start = i
            for j in range(start, i + 1):
                is_global = global_every > 0 and (j - start) % global_every == 0
                visible[b, i, j] = i - j < window or is_global
    return visible


def plain_attention(query, key, value, visible):
    logits = (query @ key.mT) * query.shape[-1] ** -0.5
    return logits.masked_fill(~visible[:, None], float("-inf")).softmax(-1) @ value


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 45), st.integers(1, 12), st.integers(0, 6), st.sampled_from([0.0, 0.1, 0.4]), st.integers(0, 999))
def test_blocks_equal_the_rule_pair_by_pair(length, window, global_every, cuts, seed):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 2, 2, length, 4, generator=generator).unbind(0)
    documents = (torch.rand(2, length, generator=generator) < cuts).long().cumsum(1)
    layout = TokenLayout(document_positions(documents), documents)
    if cuts == 0:
        layout = TokenLayout(torch.arange(length)[None])
        documents = torch.zeros(2, length)
    found = attend(query, key, value, Visibility(layout, layout, window, global_every))
    torch.testing.assert_close(found, plain_attention(query, key, value, by_rule(documents, window, global_every)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 6), st.integers(0, 99))
def test_chosen_queries_get_what_all_queries_get(length, window, global_every, seed):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 2, 2, length, 4, generator=generator).unbind(0)
    layout = TokenLayout(torch.arange(length)[None])
    visibility = Visibility(layout, layout, window, global_every)
    chosen = torch.stack([torch.randperm(length, generator=generator)[: max(1, length // 2)] for _ in range(2)])
    index = chosen[:, None, :, None].expand(-1, 2, -1, 4)
    found = attend(query.gather(2, index), key, value, visibility.at(chosen))
    torch.testing.assert_close(found, attend(query, key, value, visibility).gather(2, index))


def test_no_mask_is_made_where_none_is_needed():
    layout = TokenLayout(torch.arange(16)[None])
    assert Visibility(layout, layout, 16, 4).is_causal
    assert not Visibility(layout, layout, 15, 4).is_causal
    documents = torch.tensor([[0] * 8 + [1] * 8])
    packed = TokenLayout(document_positions(documents), documents)
    assert not Visibility(packed, packed, 16, 4).is_causal


def test_masks_of_a_long_text_grow_with_the_window_not_with_the_text():
    length, window = 512, 16
    layout = TokenLayout(torch.arange(length)[None])
    visibility = Visibility(layout, layout, window, 0)
    query = torch.randn(1, 1, length, 4)
    attend(query, query, query, visibility)
    assert sum(mask.numel() for mask in visibility._masks.values()) <= length * 2 * window


def test_positions_start_again_with_each_document():
    documents = torch.tensor([[4, 4, 4, 7, 7, -1], [0, 1, 2, 2, 2, 2]])
    assert document_positions(documents).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 3]]


def test_rotation_is_relative_and_its_gradient_turns_back():
    torch.manual_seed(0)
    x = torch.randn(1, 1, 1, 8, dtype=torch.double, requires_grad=True)
    y = torch.randn(1, 1, 1, 8, dtype=torch.double)
    table = lambda at: rotary_table(torch.tensor([[at]]), 8, 10000.0, torch.double)  # noqa: E731
    products = [(rotate(x, table(a)) * rotate(y, table(b))).sum() for a, b in ((3, 1), (103, 101))]
    torch.testing.assert_close(*products, atol=1e-5, rtol=1e-5)
    assert torch.autograd.gradcheck(lambda x: rotate(x, table(5)), (x,))


def test_statistics_show_what_the_kernel_hides():
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8)
    layout = TokenLayout(torch.arange(9)[None])
    found = attention_statistics(query, key, Visibility(layout, layout, 4, 0))
    visible = by_rule(torch.zeros(2, 9), 4, 0)
    logits = (query @ key.repeat_interleave(2, 1).mT) * 8**-0.5
    logits = logits.masked_fill(~visible[:, None], float("-inf"))
    torch.testing.assert_close(found["max_logit"], logits.amax((0, 2, 3)))
    weights = logits.softmax(-1)
    torch.testing.assert_close(found["entropy"], -torch.xlogy(weights, weights).sum(-1).mean((0, 2)))


@pytest.mark.parametrize("memory", ["off", "ema", "titans"])
@torch.no_grad()
def test_the_cache_is_bounded_by_window_and_globals(small, memory):
    model = small(memory=memory, sliding_window=8, global_every=16)
    ids = torch.randint(5, 97, (2, 400), generator=torch.Generator().manual_seed(0))
    whole = model(ids, use_cache=False).logits
    output = model(ids[:, :150], use_cache=True)
    parts, longest = [output.logits], 0
    for at in range(150, 400):
        output = model(ids[:, at : at + 1], past_key_values=output.past_key_values)
        parts.append(output.logits)
        longest = max(longest, output.past_key_values.layers[0].length)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=0)
    assert longest <= 8 + 400 // 16 + 2 * PRUNE_SLACK
    assert output.past_key_values.get_seq_length() == 400


@torch.no_grad()
def test_a_cache_can_be_cropped_only_where_that_is_exact(small):
    ids = torch.randint(5, 97, (1, 12), generator=torch.Generator().manual_seed(0))
    model = small(short_convolution=0)
    cache = model.make_cache()
    model(ids, past_key_values=cache)
    cache.crop(-4)
    again = model(ids[:, 8:], past_key_values=cache).logits
    torch.testing.assert_close(again, model(ids).logits[:, 8:], atol=1e-4, rtol=0)
    model = small(short_convolution=4)
    cache = model.make_cache()
    model(ids, past_key_values=cache)
    with pytest.raises(ValueError, match="cannot be cropped"):
        cache.crop(-4)


@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_given_mask_of_what_is_seen_anyway_changes_nothing(small, steps, width):
    model = small(short_convolution=width, sliding_window=64, recursion_steps=steps, act=steps > 0)
    ids = torch.arange(2, 14).reshape(2, 6)
    seen = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        plain = model(ids, use_cache=False).logits
        given = model(ids, attention_mask=seen, position_ids=torch.arange(6)[None], use_cache=False).logits
    torch.testing.assert_close(given, plain)


REFUSED = [
    ({"memory": "ema"}, "runs along the row"),
    ({"short_convolution": 5, "sliding_window": 4}, "beyond the window"),
]


@pytest.mark.parametrize(("changes", "why"), REFUSED)
def test_a_given_mask_is_refused_where_it_cannot_be_followed(small, changes, why):
    model = small(**{"short_convolution": 0, **changes})
    seen, places = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril(), torch.arange(6)[None]
    with pytest.raises(ValueError, match=why):
        model(torch.arange(6)[None], attention_mask=seen, position_ids=places)
    with pytest.raises(ValueError, match="needs position_ids"):
        model(torch.arange(6)[None], attention_mask=seen)

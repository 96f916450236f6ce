import pytest
import torch

from agent_forge.optim.qk_clip import clip_query_key, logit_bound, max_logits


def attention(seed=0, heads=4, key_heads=4, gain=6.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 9, 16, generator=generator)
    query_weight = gain * torch.randn(heads * 8, 16, generator=generator)
    key_weight = gain * torch.randn(key_heads * 8, 16, generator=generator)
    return x, query_weight, key_weight


def logits_of(x, query_weight, key_weight):
    def project(weight):
        return (x @ weight.T).view(2, 9, -1, 8).transpose(1, 2)

    return max_logits(project(query_weight), project(key_weight))


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_after_clipping_no_head_exceeds_the_threshold_and_calm_heads_are_untouched(key_heads):
    x, query_weight, key_weight = attention(key_heads=key_heads)
    query_weight[:8] *= 1e-3
    before = logits_of(x, query_weight, key_weight)
    calm_query, keys = query_weight[:8].clone(), key_weight.clone()
    clipped = clip_query_key(query_weight, key_weight, before, threshold=30.0, num_key_heads=key_heads)
    after = logits_of(x, query_weight, key_weight)
    assert clipped == int((before > 30).sum()) >= 1
    assert before[0] < 30
    torch.testing.assert_close(after, before.clamp(max=30.0), rtol=1e-4, atol=1e-4)
    assert torch.equal(query_weight[:8], calm_query)
    # A key that several heads share is never shrunk (premortem E1).
    assert torch.equal(key_weight, keys) == (key_heads != 4)


def test_by_hand_both_sides_take_the_root():
    query_weight, key_weight = torch.full((1, 1), 8.0), torch.full((1, 1), 4.0)
    assert clip_query_key(query_weight, key_weight, torch.tensor([32.0]), threshold=8.0) == 1
    assert (query_weight.item(), key_weight.item()) == (4.0, 2.0)


def test_the_bound_is_never_below_the_maximum():
    generator = torch.Generator().manual_seed(2)
    query, key = torch.randn(3, 6, 11, 8, generator=generator), torch.randn(3, 2, 11, 8, generator=generator)
    assert (logit_bound(query, key) >= max_logits(query, key) - 1e-5).all()


def test_a_future_key_does_not_count():
    query, key = torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 2, 1)
    query[0, 0, 0], key[0, 0, 1] = 5.0, 5.0
    assert max_logits(query, key).item() == 0.0
    assert max_logits(query, key, causal=False).item() == 25.0


def test_not_a_number_clips_nothing_and_bad_heads_are_refused():
    weight = torch.ones(8, 4)
    assert clip_query_key(weight, weight.clone(), torch.tensor([float("nan")] * 2), threshold=1.0) == 0
    assert torch.equal(weight, torch.ones(8, 4))
    with pytest.raises(ValueError, match="do not divide"):
        clip_query_key(weight, weight, torch.zeros(3), threshold=1.0)
    with pytest.raises(ValueError, match="threshold"):
        clip_query_key(weight, weight, torch.zeros(2), threshold=0.0)

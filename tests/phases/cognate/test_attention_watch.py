import math

import pytest
import torch

from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.optim.qk_clip import max_logits
from agent_forge.phases.cognate.attention_watch import (
    Recording,
    attention_entropy,
    attention_metrics,
    clip_attention,
    recording,
)


def model(**changes):
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CognateForCausalLM(CognateConfig(intermediate_size=16, **(shape | changes)))


def test_recording_sees_every_layer_and_leaves_the_model_as_it_was():
    found, ids = model(), torch.arange(12).view(2, 6)
    plain = found.features(ids).steps[-1]
    with recording(found) as recorded:
        torch.testing.assert_close(found.features(ids).steps[-1], plain)
    assert [tuple(q.shape) for q in recorded.queries] == [(1, 2, 6, 8)] * 2
    assert len(recorded.keys) == 2
    assert all("queries" not in vars(a) for a in recorded.attentions)


def test_every_look_of_the_recursion_is_recorded_with_the_keys_that_it_meets():
    found, ids = model(recursion_steps=3, micro_steps=2, qk_norm=False), torch.arange(12).view(2, 6)
    with torch.no_grad(), recording(found) as recorded:
        found.features(ids)
    shared = found.recursion.attention
    assert recorded.attentions == [*(layer.attention for layer in found.model.layers), *[shared] * 6]
    assert len(recorded.keys) == len(recorded.queries) == 8
    assert all(key is recorded.keys[2] for key in recorded.keys[2:])
    largest = torch.stack([max_logits(q, k) for q, k in zip(recorded.queries[2:], recorded.keys[2:], strict=True)])
    threshold = float(largest.max()) / 2
    before = shared.q_proj.weight.clone()
    count, heads = clip_attention(recorded, threshold=threshold)
    assert heads == 2 * 8
    assert count >= int((largest > threshold).sum()) > 0
    # Once for all its looks: the largest logit of each head is at the threshold, not below it.
    factor = (threshold / largest.amax(0)).clamp(max=1).sqrt()
    torch.testing.assert_close(shared.q_proj.weight, before * factor.repeat_interleave(8)[:, None])


def test_uniform_attention_has_full_entropy_and_no_sinks():
    zeros = torch.zeros(1, 2, 5, 8)
    recorded = Recording([], [zeros], [zeros])
    assert float(attention_entropy(recorded)) == pytest.approx(1.0)
    assert attention_metrics(recorded)["attn/sinks"] == 0


def test_a_key_that_takes_everything_is_a_sink():
    query, key = torch.ones(1, 2, 6, 8), torch.zeros(1, 2, 6, 8)
    key[:, :, 0] = 20.0
    figures = attention_metrics(Recording([], [query], [key]))
    assert figures["attn/sinks"] == 2
    assert figures["attn/entropy_fraction"] < 0.01
    assert figures["attn/max_logit"] == pytest.approx(160 / math.sqrt(8))


@pytest.mark.parametrize("qk_norm", [True, False])
def test_qk_clip_bounds_the_logits_of_models_without_qk_norm_only(qk_norm):
    found, ids = model(qk_norm=qk_norm, num_key_value_heads=1), torch.arange(12).view(2, 6)
    with torch.no_grad():
        found.model.layers[0].attention.q_proj.weight.mul_(3000)
    with recording(found) as recorded:
        found.features(ids)
    count, heads = clip_attention(recorded, threshold=2.0)
    assert heads == (0 if qk_norm else 4)
    with recording(found) as again:
        found.features(ids)
    assert (count > 0) is not qk_norm
    if not qk_norm:
        assert attention_metrics(Recording(again.attentions[:1], again.queries[:1], again.keys[:1]))[
            "attn/max_logit"
        ] == pytest.approx(2.0, rel=1e-3)

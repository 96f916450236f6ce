import pytest
import torch
from transformers import AutoModelForCausalLM

from agent_forge.model import CognateConfig, CognateForCausalLM

VARIANTS = {
    "plain": {"memory": "off", "short_convolution": 0, "qk_norm": False},
    "default": {},
    "ema": {"memory": "ema"},
    "titans": {"memory": "titans"},
    "memory in the last layer only": {"memory": "titans", "memory_every": 2},
    "ema without gate": {"memory": "ema", "gate": False},
    "grouped keys, value residual, soft cap": {
        "num_key_value_heads": 2,
        "value_residual": True,
        "logit_soft_cap": 5.0,
    },
    "no global tokens": {"global_every": 0},
    "recursion": {"recursion_steps": 3, "recursion_detach": False},
    "halting": {"recursion_steps": 3, "recursion_detach": False, "act": True},
}


@pytest.fixture(params=list(VARIANTS), ids=list(VARIANTS))
def model(request, small):
    return small(**VARIANTS[request.param])


def tokens(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(5, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def decoded(model: CognateForCausalLM, ids: torch.Tensor, first: int, step: int = 1) -> torch.Tensor:
    output = model(ids[:, :first], use_cache=True)
    parts = [output.logits]
    for start in range(first, ids.shape[1], step):
        output = model(ids[:, start : start + step], past_key_values=output.past_key_values)
        parts.append(output.logits)
    return torch.cat(parts, 1)


@pytest.mark.parametrize(("first", "step"), [(1, 1), (13, 1), (5, 3), (30, 11)])
@torch.no_grad()
def test_cached_logits_equal_uncached_ones(model, first, step):
    ids = tokens(2, 41)
    whole = model(ids, use_cache=False).logits
    torch.testing.assert_close(decoded(model, ids, first, step), whole, atol=1e-4, rtol=0)


@torch.no_grad()
def test_padding_on_either_side_changes_nothing_for_real_tokens(model):
    ids, pad = tokens(2, 21), torch.zeros(2, 6, dtype=torch.long)
    mask = torch.cat([torch.zeros(2, 6), torch.ones(2, 21)], 1).long()
    mask[1, 2:6] = 1  # the second row is longer: its padding ends earlier
    left = torch.cat([pad, ids], 1)
    left[1, 2:6] = tokens(1, 4, seed=9)
    alone = [model(left[row : row + 1][mask[row : row + 1].bool()][None]).logits[0] for row in range(2)]
    padded = model(left, attention_mask=mask).logits
    for row in range(2):
        torch.testing.assert_close(padded[row][mask[row].bool()], alone[row], atol=1e-4, rtol=0)
    right = model(torch.cat([ids, pad], 1), attention_mask=torch.cat([torch.ones(2, 21), pad], 1)).logits
    torch.testing.assert_close(right[:, :21], model(ids).logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_left_padded_batch_decodes_like_its_rows_alone(model):
    ids = tokens(2, 30)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    output = model(ids[:, :12], attention_mask=mask[:, :12], use_cache=True)
    parts = [output.logits]
    for end in range(13, 31):
        output = model(ids[:, end - 1 : end], attention_mask=mask[:, :end], past_key_values=output.past_key_values)
        parts.append(output.logits)
    batch = torch.cat(parts, 1)
    torch.testing.assert_close(batch[0, 7:], model(ids[:1, 7:]).logits[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(batch[1], model(ids[1:]).logits[0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_packed_documents_equal_separate_ones(model):
    first, second, third = tokens(1, 19, 1), tokens(1, 3, 2), tokens(1, 26, 3)
    numbers = [[0] * 19 + [1] * 3 + [2] * 26 + [-1] * 4]
    packed = model(
        torch.cat([first, second, third, torch.zeros(1, 4, dtype=torch.long)], 1), document_ids=torch.tensor(numbers)
    ).logits[0]
    for start, document in ((0, first), (19, second), (22, third)):
        torch.testing.assert_close(
            packed[start : start + document.shape[1]], model(document).logits[0], atol=1e-4, rtol=0
        )


@torch.no_grad()
def test_no_token_sees_the_future(model):
    ids = tokens(1, 37)
    before = model(ids).logits
    for at in (0, 9, 20, 36):
        changed = ids.clone()
        changed[0, at] = 96 if int(ids[0, at]) != 96 else 95
        after = model(changed).logits
        # halting decides how many positions go on, and a product of another height may round otherwise
        torch.testing.assert_close(after[:, :at], before[:, :at], atol=1e-6, rtol=0)
        assert not torch.equal(after[:, at], before[:, at])


def test_gradients_reach_every_parameter(model):
    model.train()
    ids = tokens(2, 24)
    documents = torch.tensor([[0] * 10 + [1] * 14, [0] * 24])
    loss = model(ids, document_ids=documents, labels=ids).loss
    loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("halting"):
            continue  # it has a loss of its own
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_samples_of_a_batch_do_not_mix(model):
    ids = tokens(3, 30)
    with torch.no_grad():
        together = model(ids).logits
        alone = model(ids[1:2]).logits
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=0)


def test_saved_and_loaded_by_the_auto_class_gives_the_same_logits(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, CognateForCausalLM)
    assert loaded.config.to_dict() == model.config.to_dict() | {"_name_or_path": loaded.config._name_or_path}
    ids = tokens(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=0, rtol=0)


def test_generate_samples_beams_and_agrees_with_greedy_decoding_by_hand(model):
    ids = tokens(2, 11)
    greedy = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)
    by_hand = ids
    with torch.no_grad():
        for _ in range(12):
            by_hand = torch.cat([by_hand, model(by_hand).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(greedy, by_hand)
    torch.manual_seed(0)
    sampled = model.generate(
        ids, max_new_tokens=12, do_sample=True, temperature=0.8, top_k=20, top_p=0.9, eos_token_id=None
    )
    assert sampled.shape == (2, 23)
    assert model.generate(ids, max_new_tokens=6, num_beams=3, do_sample=False, eos_token_id=None).shape == (2, 17)


def test_gradient_checkpointing_gives_the_same_gradients(small):
    model, ids = small(memory="ema", value_residual=True).train(), tokens(2, 20)
    found = []
    for _ in range(2):
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        model.activation_checkpointing_enable()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_zero_initial_outputs_make_every_block_the_identity(small):
    model = CognateForCausalLM(CognateConfig(**{**small().config.to_dict(), "zero_init_output": True})).eval()
    ids = tokens(1, 9)
    with torch.no_grad():
        expected = model.model.norm(model.model.embed_tokens(ids))
        torch.testing.assert_close(model(ids).hidden, expected)


def test_statistics_of_the_gate_are_measured_on_request_and_carry_gradients(small):
    model, ids = small(memory="ema"), tokens(2, 20)
    assert model(ids).statistics is None
    found = model(ids, output_statistics=True).statistics
    assert 0 < found["gate/entropy"].item() <= 0.6932
    assert 0 < found["gate/m_usage"].item() < 1
    found["gate/entropy"].backward()
    assert model.model.layers[0].gate.hidden.weight.grad.abs().sum() > 0


def test_features_and_head_give_what_forward_gives(small):
    model, ids = small(logit_soft_cap=4.0), tokens(2, 15)
    with torch.no_grad():
        features = model.features(ids)
        torch.testing.assert_close(model.head(features.steps[-1]), model(ids).logits)
        assert model(ids).logits.abs().max() <= 4.0
        assert model(ids, logits_to_keep=3).logits.shape == (2, 3, 97)


def test_wrong_arguments_are_refused_with_their_values(small):
    model, ids = small(), tokens(1, 5)
    with pytest.raises(ValueError, match="exactly one"):
        model.features(ids, inputs_embeds=torch.zeros(1, 5, 32))
    with pytest.raises(ValueError, match="4 axes"):
        model(ids, attention_mask=torch.ones(1, 1, 5, 5))
    with pytest.raises(ValueError, match="one document per row"):
        model(ids, document_ids=torch.zeros(1, 5, dtype=torch.long), past_key_values=model.make_cache())

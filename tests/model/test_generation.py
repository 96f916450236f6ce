import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.model.generation import chat_prompt, choose_token, generate_tokens

PROMPT = [1, 7, 8, 9, 10, 11]


def test_greedy_tokens_equal_generate(small):
    model = small(memory="ema")
    expected = model.generate(torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False, eos_token_id=None)
    found = list(generate_tokens(model, None, PROMPT, max_tokens=20))
    assert found == expected[0, len(PROMPT) :].tolist()


def test_other_architectures_decode_too():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    expected = model.generate(torch.tensor([PROMPT]), max_new_tokens=10, do_sample=False, eos_token_id=None)
    assert list(generate_tokens(model, None, PROMPT, max_tokens=10)) == expected[0, len(PROMPT) :].tolist()


def test_a_stop_token_ends_the_text_and_is_not_given(small):
    model = small()
    free = list(generate_tokens(model, None, PROMPT, max_tokens=12))
    stop = free[5]
    assert list(generate_tokens(model, None, PROMPT, max_tokens=12, stop_ids=[stop])) == free[: free.index(stop)]


def test_the_tokenizers_end_is_the_default_stop(small, tokenizer):
    model = small()
    model.lm_head.weight.data[tokenizer.eos_token_id] = 0
    with torch.no_grad():
        hidden = model(torch.tensor([PROMPT])).hidden[0, -1]
        model.lm_head.weight.data[tokenizer.eos_token_id] = hidden * 100
    assert list(generate_tokens(model, tokenizer, PROMPT, max_tokens=5)) == []


def test_equal_seeds_give_equal_samples_and_others_differ(small):
    model = small()
    draw = lambda seed: list(generate_tokens(model, None, PROMPT, max_tokens=15, temperature=1.5, seed=seed))  # noqa: E731
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=12), st.floats(0.05, 1.0), st.integers(0, 99))
def test_a_draw_comes_from_the_nucleus(logits, top_p, seed):
    probability = torch.tensor(logits).softmax(-1)
    token = choose_token(torch.tensor(logits), 1.0, top_p, torch.Generator().manual_seed(seed))
    larger = probability[probability > probability[token]].sum()
    assert float(larger) < top_p + 1e-5


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_wrong_settings_are_refused_at_once(small, bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        generate_tokens(small(), None, PROMPT, max_tokens=3, **bad)


def test_an_empty_prompt_is_refused(small):
    with pytest.raises(ValueError, match="no tokens"):
        generate_tokens(small(), None, [], max_tokens=3)


def test_a_chat_prompt_ends_where_the_assistant_speaks(tokenizer):
    ids = chat_prompt(tokenizer, [{"role": "user", "content": "ab"}])
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|bos|>", "<|user|>", "a", "b", "<|end|>", "<|assistant|>"]

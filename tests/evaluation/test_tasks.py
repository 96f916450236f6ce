"""Exact answers: what is compared, and that batching and padding change nothing."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.data.documents import Document, Task
from agent_forge.data.packing import Batches, pack
from agent_forge.data.tokenizer import add_thoughts, encode_texts, thought_ids, train_tokenizer
from agent_forge.evaluation.tasks import exact_match, normalised, prompt_ids, write

ANIMALS = {"fox": "red", "bear": "brown", "frog": "green", "owl": "grey", "swan": "white", "crow": "black"}
DOCUMENTS = [Document.chat((("user", f"What colour is the {a}?"), ("assistant", c))) for a, c in ANIMALS.items()]
TASKS = [Task(f"What colour is the {a}?", c, f"colour/{len(a)}", 1 + len(a) % 2) for a, c in ANIMALS.items()]
TOKENIZER = train_tokenizer([d.text for d in DOCUMENTS] * 4, 300)


@pytest.fixture(scope="module")
def learned():
    """A tiny model that has learned the six colours by heart."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(TOKENIZER), max_position_embeddings=256, **sizes))
    batches = Batches({"d": pack(DOCUMENTS, TOKENIZER)}, {"d": 1}, sequence_length=24, batch_size=6, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(120):
        batch = batches.batch(step)
        # one document a window here: nothing to keep apart
        loss = model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_learned_answers_are_found(learned):
    score = exact_match(learned, TOKENIZER, TASKS, max_tokens=8)
    assert score.accuracy == 1.0
    assert score.answers == list(ANIMALS.values())
    assert set(score.by_level) == {1, 2}
    assert score.by_kind == {"colour/3": 1.0, "colour/4": 1.0}
    assert score.to_json()["tasks"] == 6


def test_wrong_answers_are_wrong(learned):
    wrong = [Task(task.prompt, "purple", task.kind) for task in TASKS]
    assert exact_match(learned, TOKENIZER, wrong, max_tokens=8).accuracy == 0.0


def test_padding_and_batching_change_nothing(learned):
    prompts = prompt_ids(TOKENIZER, [*(task.prompt for task in TASKS), "frog?", "What colour is the bear and the owl?"])
    together = write(learned, TOKENIZER, prompts, 8)
    alone = [write(learned, TOKENIZER, [prompt], 8)[0] for prompt in prompts]
    assert together == alone


def test_choices_are_decided_by_likelihood(learned):
    tasks = [Task(t.prompt, t.answer, "choice", choices=tuple(ANIMALS.values())) for t in TASKS]
    assert exact_match(learned, TOKENIZER, tasks).accuracy == 1.0
    pair = Task(
        "", "What colour is the fox?", "pair/word order", choices=("fox the is colour What?", "What colour is the fox?")
    )
    ending = Task("What colour is", "the owl?", "ending", choices=("owl the?", "the owl?"))
    assert exact_match(learned, TOKENIZER, [pair, ending]).answers == [pair.answer, ending.answer]


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("The mill.", "mill"),
        ("2 * 3 = 6\nThe answer is 1,006.", "1006"),
        ("12\n  7", "12 7"),
        ("an owl", "owl"),
        ("The answer is 3. The answer is 4.", "4"),
        ("ten, twenty", "ten, twenty"),
    ],
)
def test_what_is_compared(said, means):
    last_sentence = said.split(". ")[-1] if said.count("answer is") > 1 else said
    assert normalised(last_sentence) == means


def test_prompts_end_where_the_answer_starts():
    (ids,) = prompt_ids(TOKENIZER, ["fox?"])
    assert TOKENIZER.decode(ids) == "<|bos|><|user|>fox?<|end|><|assistant|>"


def test_only_what_stands_behind_the_thought_is_compared():
    thinker = train_tokenizer([d.text for d in DOCUMENTS] * 4, 300)
    add_thoughts(thinker)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(thinker), max_position_embeddings=256, **sizes)).eval()
    with torch.no_grad():  # a writer that can only count on: thought token, closing mark, "red", end
        (red,) = [ids[0] for ids in encode_texts(thinker, ["red"])]
        chain = [thinker.convert_tokens_to_ids("<|assistant|>"), *thought_ids(thinker), red, thinker.eos_token_id]
        model.model.embed_tokens.weight.zero_()
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for place, token in enumerate(chain):
            model.model.embed_tokens.weight[token, place] = 1.0
            if place:
                model.lm_head.weight[:, place - 1] = 0.0
                model.lm_head.weight[token, place - 1] = 5.0
    task = Task("What colour is the fox?", "red", "colour")
    assert exact_match(model, thinker, [task], max_tokens=4).answers == ["red"]
    assert exact_match(model, thinker, [task], max_tokens=4, think=True, thought_budget=2).answers == ["red"]
    prompts = prompt_ids(thinker, [task.prompt])
    assert write(model, thinker, prompts, 1, think=True) == ["red"]  # a thought comes on top of the answer's tokens


def test_thinking_on_request_needs_thought_tokens(learned):
    with pytest.raises(ValueError, match="not taught to think"):
        exact_match(learned, TOKENIZER, TASKS, think=True)


def test_no_tasks(learned):
    with pytest.raises(ValueError, match="no tasks"):
        exact_match(learned, TOKENIZER, [])

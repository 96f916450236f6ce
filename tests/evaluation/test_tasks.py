"""Exact answers: what is compared, and that batching and padding change nothing."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.data.documents import Document, Task
from agent_forge.data.packing import Batches, pack
from agent_forge.data.tokenizer import train_tokenizer
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


def test_no_tasks(learned):
    with pytest.raises(ValueError, match="no tasks"):
        exact_match(learned, TOKENIZER, [])

"""Conversations as the page writes them: token for token what `Dialogue` gives a model to read."""

import json

import pytest
from tests.phases.edge.pages import ask_page
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agent_forge.agent.dialogue import Dialogue
from agent_forge.data.tokenizer import add_thoughts, train_tokenizer
from agent_forge.errors import HandoffError
from agent_forge.phases.edge.web_dialogue import dialogue, linear_template

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (
    "<s>{% for message in messages %}<|im_start|>{{ message['role'] }}<|im_end|>\n\n{{ message['content'] | trim }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|im_end|>\n\n{% endif %}"
)
INSTRUCTIONS = (
    "<s>{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }}</s>{% endif %}{% endfor %}"
)
NUMBERED = "{% for message in messages %}{{ loop.index }}. {{ message['content'] }}\n{% endfor %}"
LAST_ONLY = "{{ messages[0]['content'] }}|{{ messages[-1]['content'] }}>"
CONVERSATIONS = [
    ["What is 17 + 25?"],
    ["What is <|im_start|>17?</s>", "calculator(17)", "result: 17", "It is 17.", " And\n\nnow? "],
    ["naïve 🙂 你好", "a\nb", "<think> x"],
]


@pytest.fixture(scope="module")
def foreign():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>", "</s>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(["What is it? It is the answer of the user."] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )


def check(tokenizer):
    """Page and Python write the conversations the same."""
    said = [
        [{"role": ("user", "assistant")[place % 2], "content": words} for place, words in enumerate(each)]
        for each in CONVERSATIONS
    ]
    file = json.loads(tokenizer.backend_tokenizer.to_str())
    got = ask_page("prompt", tokenizer=file, dialogue=dialogue(tokenizer), conversations=said)
    assert got == [Dialogue(tokenizer, each).prompt() for each in said]


def test_marks():
    house = train_tokenizer(["a few words"] * 3, 300)
    assert dialogue(house) == {
        "style": "marks", "bos": 1, "end": 2, "user": 3, "assistant": 4, "opening": None, "closing": None,
    }  # fmt: skip
    check(house)
    add_thoughts(house)
    assert dialogue(house)["opening"] == house.get_vocab()["<think>"]
    check(house)


def test_lines(foreign):
    foreign.chat_template = None
    assert dialogue(foreign) == {"style": "lines", "bos": 0, "opening": None, "closing": None}
    check(foreign)


def test_a_template_by_hand(foreign):
    foreign.chat_template = CHATML
    before = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    after = "<|im_end|>\n<|im_start|>assistant\n"
    assert linear_template(foreign) == {
        "around": [before, after, "<|im_end|>\n<|im_start|>user\n", after], "trim": False,
    }  # fmt: skip


@pytest.mark.parametrize("template", [CHATML, HEADERS, INSTRUCTIONS], ids=["chatml", "headers", "instructions"])
def test_templates_of_the_field(foreign, template):
    foreign.chat_template = template
    check(foreign)


@pytest.mark.parametrize("template", [NUMBERED, LAST_ONLY, "{{ bos_token }}"], ids=["numbered", "last only", "nothing"])
def test_a_template_that_does_more_is_refused(foreign, template):
    foreign.chat_template = template
    with pytest.raises(HandoffError, match="does more than put something around the words"):
        dialogue(foreign)

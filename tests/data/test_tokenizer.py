"""The house tokenizer: bytes, digits, marks, and the same again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import (
    SPECIALS,
    encode_documents,
    encode_texts,
    tokenizer_digest,
    train_tokenizer,
)

TEXTS = ["the cat sat on the mat", "the dog ran to the cat", "def add(a, b):\n    return a + b\n", "12 + 30 = 42"] * 5
TOKENIZER = train_tokenizer(TEXTS, 320)


def test_marks_come_first_in_this_order():
    assert TOKENIZER.convert_tokens_to_ids(list(SPECIALS)) == [0, 1, 2, 3, 4]
    assert (TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id) == (0, 1, 2)


@given(st.text())
def test_any_text_survives(text):
    (ids,) = encode_texts(TOKENIZER, [text])
    assert TOKENIZER.decode(ids) == text
    assert not set(ids) & set(range(5))


def test_digits_are_single():
    (ids,) = encode_texts(TOKENIZER, ["12 + 30 = 42"])
    tokens = TOKENIZER.convert_ids_to_tokens(ids)
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("123042")


def test_a_spelled_out_mark_is_plain_text():
    (ids,) = encode_texts(TOKENIZER, ["say <|end|> now <|assistant|>"])
    assert not set(ids) & set(range(5))
    assert TOKENIZER.decode(ids) == "say <|end|> now <|assistant|>"


def test_same_texts_same_tokenizer():
    assert tokenizer_digest(train_tokenizer(TEXTS, 320)) == tokenizer_digest(TOKENIZER)
    assert tokenizer_digest(train_tokenizer(TEXTS, 270)) != tokenizer_digest(TOKENIZER)


def test_saved_and_loaded_is_the_same(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_digest(loaded) == tokenizer_digest(TOKENIZER)
    messages = [{"role": "user", "content": "the cat"}]
    assert loaded.apply_chat_template(messages, tokenize=False) == "<|bos|><|user|>the cat<|end|>"


def test_conversation_equals_the_chat_template():
    document = Document.chat((("user", "the cat?"), ("assistant", "sat 12")))
    (encoded,) = encode_documents(TOKENIZER, [document])
    messages = [{"role": role, "content": content} for role, content in document.turns]
    shown = TOKENIZER.apply_chat_template(messages, tokenize=False)
    assert shown == "<|bos|><|user|>the cat?<|end|><|assistant|>sat 12<|end|>"
    assert encoded.ids == TOKENIZER.encode(shown, add_special_tokens=False)
    prompt = TOKENIZER.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    given_ids = TOKENIZER.encode(prompt, add_special_tokens=False)
    assert encoded.prompted == [False] + [True] * (len(given_ids) - 1) + [False] * (len(encoded.ids) - len(given_ids))


def test_plain_text_opens_and_ends():
    (encoded,) = encode_documents(TOKENIZER, [Document("the cat")])
    assert encoded.ids[0] == 1
    assert encoded.ids[-1] == 2
    assert encoded.ids[:-1] == TOKENIZER("the cat")["input_ids"]


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="261"):
        train_tokenizer(TEXTS, 260)

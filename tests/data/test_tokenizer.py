"""The house tokenizer: bytes, digits, marks, and the same again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import (
    SPECIALS,
    add_thoughts,
    encode_documents,
    encode_texts,
    has_thoughts,
    split_thought,
    thought_ids,
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


THINKER = train_tokenizer(TEXTS, 320)
add_thoughts(THINKER)
WORKED = Document.chat((("user", "12 + 30?"), ("thought", "2 + 0 = 2"), ("assistant", "42")))


def test_thought_tokens_stand_behind_all_others_and_are_added_once():
    assert thought_ids(THINKER) == (len(TOKENIZER), len(TOKENIZER) + 1)
    assert has_thoughts(THINKER)
    assert add_thoughts(THINKER) == 0
    assert not has_thoughts(TOKENIZER)
    with pytest.raises(ValueError, match="quietstar"):
        thought_ids(TOKENIZER)


def test_a_thought_is_written_by_the_model_in_front_of_its_answer():
    (encoded,) = encode_documents(THINKER, [WORKED])
    assert THINKER.decode(encoded.ids) == (
        "<|bos|><|user|>12 + 30?<|end|><|assistant|><think>2 + 0 = 2</think>42<|end|>"
    )
    said = THINKER.decode([i for i, given in zip(encoded.ids, encoded.prompted, strict=True) if not given])
    assert said == "<|bos|><think>2 + 0 = 2</think>42<|end|>"
    assert WORKED.num_bytes == len("12 + 30?2 + 0 = 242") + 6


def test_without_thought_tokens_thoughts_are_left_out():
    (encoded,) = encode_documents(TOKENIZER, [WORKED])
    (plain,) = encode_documents(TOKENIZER, [WORKED.without_thoughts()])
    assert encoded == plain
    assert TOKENIZER.decode(encoded.ids) == "<|bos|><|user|>12 + 30?<|end|><|assistant|>42<|end|>"


def test_thought_marks_spelled_out_are_plain_text():
    (ids,) = encode_texts(THINKER, ["a <think>b</think>"])
    assert not set(ids) & set(thought_ids(THINKER))
    assert THINKER.decode(ids) == "a <think>b</think>"


def test_thought_tokens_survive_the_disk(tmp_path):
    THINKER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_digest(loaded) == tokenizer_digest(THINKER)
    assert thought_ids(loaded) == thought_ids(THINKER)


@pytest.mark.parametrize(
    ("turn", "thought", "said"),
    [
        ("<think>a</think>b", "a", "b"),
        ("a</think>b", "a", "b"),
        ("<think>a", "a", ""),
        ("b", "", "b"),
        ("<think>a</think>b<think>c</think>d", "abc", "d"),
        ("<think>a</think>b<think>c", "abc", ""),
    ],
)
def test_what_is_thought_and_what_is_said(turn, thought, said):
    found = split_thought(THINKER, THINKER.encode(turn, add_special_tokens=False))
    assert tuple(map(THINKER.decode, found)) == (thought, said)
    ids = TOKENIZER.encode("a b", add_special_tokens=False)
    assert split_thought(TOKENIZER, ids) == ([], ids)

"""Tokenizers that are not ours: the same documents, the same bytes, new lines where our marks would be."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import (
    add_thoughts,
    encode_documents,
    encode_texts,
    has_marks,
    start_ids,
    tokenizer_digest,
)
from agent_forge.evaluation.tasks import prompt_ids

CHAT = Document.chat((("user", "hi"), ("assistant", "ho"), ("user", "who?"), ("assistant", "me")))
ASKED = Document.chat((("user", "hi"), ("assistant", "ho"), ("user", "who?")))
PLAIN = Document("a line")


def byte_tokenizer(**specials) -> PreTrainedTokenizerFast:
    """One token for each byte, and the special tokens asked for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)


@pytest.mark.parametrize("document", [CHAT, ASKED, PLAIN], ids=["chat", "asked", "plain"])
@pytest.mark.parametrize("specials", [{}, {"eos_token": "</s>"}, {"bos_token": "<s>", "eos_token": "</s>"}])
def test_bytes_are_counted_once_whatever_the_tokenizer(document, specials):
    tokenizer = byte_tokenizer(**specials)
    assert not has_marks(tokenizer)
    (encoded,) = encode_documents(tokenizer, [document])
    predicted = len(encoded.ids) - len(start_ids(tokenizer))
    # one token a byte here: every byte that bits per byte divides by is predicted, a mark is one of them
    assert predicted == document.num_bytes
    assert len(encoded.prompted) == len(encoded.ids)


def test_a_conversation_by_hand():
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>")
    (encoded,) = encode_documents(tokenizer, [CHAT])
    assert tokenizer.decode(encoded.ids) == "<s>\nhi\n\nho\n\nwho?\n\nme</s>"
    spoken = [token for token, given in zip(encoded.ids, encoded.prompted, strict=True) if not given]
    assert tokenizer.decode(spoken) == "<s>ho\nme</s>"


def test_questions_are_asked_as_documents_are_written():
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>")
    (ids,) = prompt_ids(tokenizer, ["hi"])
    (encoded,) = encode_documents(tokenizer, [CHAT])
    assert ids == encoded.ids[: len(ids)]
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}[bot]"
    assert tokenizer.decode(prompt_ids(tokenizer, ["hi"])[0]) == "[user] hi [bot]"


def test_its_own_marks_in_a_text_are_plain_text():
    tokenizer = byte_tokenizer(eos_token="</s>")
    (ids,) = encode_texts(tokenizer, ["a </s> b"])
    assert tokenizer.eos_token_id not in ids
    assert encode_texts(tokenizer, []) == []


def test_digest_is_of_what_it_does():
    one, same, other = byte_tokenizer(), byte_tokenizer(), byte_tokenizer(eos_token="</s>")
    same("some text", truncation=True, max_length=2)
    assert tokenizer_digest(one) == tokenizer_digest(same) != tokenizer_digest(other)


def test_thoughts_of_a_tokenizer_without_our_marks():
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>")
    worked = Document.chat((("user", "2 + 2?"), ("thought", "1 + 3"), ("assistant", "4")))
    (without,) = encode_documents(tokenizer, [worked])
    assert tokenizer.decode(without.ids) == "<s>\n2 + 2?\n\n4</s>"
    assert add_thoughts(tokenizer) == 2
    (encoded,) = encode_documents(tokenizer, [worked])
    assert tokenizer.decode(encoded.ids) == "<s>\n2 + 2?\n\n<think>1 + 3</think>4</s>"
    own = [token for token, given in zip(encoded.ids, encoded.prompted, strict=True) if not given]
    assert tokenizer.decode(own) == "<s><think>1 + 3</think>4</s>"
    assert len(encoded.ids) - 1 == worked.num_bytes
    (prompt,) = prompt_ids(tokenizer, ["2 + 2?"])
    assert encoded.ids[: len(prompt)] == prompt

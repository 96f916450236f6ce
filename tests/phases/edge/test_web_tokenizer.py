"""The page's tokenizer against the `tokenizers` library, on thousands of texts."""

import json
import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.phases.edge.pages import ask_page
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from agent_forge.data.tokenizer import add_thoughts, encode_texts, train_tokenizer
from agent_forge.phases.edge import web_export

WORDS = [
    *web_export.__doc__.split(), "It's", "don't", "we'LL", "1,234.50", "3rd", "naïve", "你好", "Straße", "🙂👍🏽",
    "e\u0301", "<think>", "<|end|>",
]  # fmt: skip
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLANKS = [" ", "\n", "\t", "\r", "\u3000", "\x85", "\ufeff", "\u200b", "\xa0", "\x1c"]
KNOWN = [chr(code) for code in range(0x30000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]


@pytest.fixture(scope="module")
def house():
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, 700)
    add_thoughts(tokenizer)
    return tokenizer


def shapes():
    """The pre-tokenizers of the field, each trained on a few words."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = [pre_tokenizers.Split(Regex(LLAMA), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    return {
        "gpt2": (None, byte_level, False),
        "prefix": (None, pre_tokenizers.ByteLevel(add_prefix_space=True), False),
        "llama": (normalizers.NFC(), pre_tokenizers.Sequence(split), True),
        "digits": (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), byte_level]), False),
    }


def made(name):
    normalizer, pre_tokenizer, ignore_merges = shapes()[name]
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.add_special_tokens(["<|im|>", "<|im|>x", AddedToken("<mask>", lstrip=True, rstrip=True, special=True)])
    tokenizer.add_tokens(["<tool>", "<to", AddedToken("naïve", normalized=True)])
    return tokenizer


def texts_of(seed, count, marks):
    rng = random.Random(seed)
    kinds = [
        lambda: rng.choice(WORDS) + " " * rng.randrange(3),
        lambda: "".join(rng.choices(KNOWN, k=rng.randrange(1, 6))),
        lambda: rng.choice(BLANKS) * rng.randrange(1, 40),
        lambda: str(rng.randrange(10 ** rng.randrange(1, 12))),
        lambda: rng.choice(marks),
        lambda: "".join(chr(rng.randrange(32, 127)) for _ in range(rng.randrange(1, 12))),
    ]
    made = ["".join(rng.choice(kinds)() for _ in range(rng.randrange(25))) for _ in range(count)]
    return [*made, "", "a" * 3000, "ab" * 1500, " " * 4000, "\ud7ff\ue000"]


def file_of(tokenizer):
    return json.loads(tokenizer.to_str())


def test_by_hand(house):
    backend = house.backend_tokenizer
    (ids,) = ask_page("encode", tokenizer=file_of(backend), texts=["12 agents <|end|>"], marks=True)
    vocabulary = house.get_vocab()
    assert ids[:3] == [vocabulary["1"], vocabulary["2"], vocabulary["Ġagent"]]
    assert ids[-1] == vocabulary["<|end|>"]


@pytest.mark.parametrize("marks", [False, True])
def test_the_house_tokenizer_gives_the_same_tokens(house, marks):
    texts = texts_of(int(marks), 3000, ["<|end|>", "<|user|>", "<think>", "</think>", "<|en"])
    got = ask_page("encode", tokenizer=file_of(house.backend_tokenizer), texts=texts, marks=marks)
    if marks:
        assert got == [house.encode(text, add_special_tokens=False) for text in texts]
    else:
        assert got == encode_texts(house, texts)


@pytest.mark.parametrize("name", shapes())
def test_the_tokenizers_of_the_field_give_the_same_tokens(name):
    tokenizer = made(name)
    texts = texts_of(5, 800, ["<|im|>x", " <mask> ", "<tool>", "naïve", "<tomato"])
    for marks in (False, True):
        tokenizer.encode_special_tokens = not marks
        wanted = [encoded.ids for encoded in tokenizer.encode_batch(texts, add_special_tokens=False)]
        assert ask_page("encode", tokenizer=file_of(tokenizer), texts=texts, marks=marks) == wanted


@given(st.lists(st.text(max_size=40), min_size=60, max_size=60))
@settings(max_examples=5, deadline=None)
def test_any_text_comes_back(house, texts):
    file = file_of(house.backend_tokenizer)
    ids = ask_page("encode", tokenizer=file, texts=texts, marks=False)
    assert ids == encode_texts(house, texts)
    assert ask_page("decode", tokenizer=file, ids=ids, skipSpecial=False) == texts


@pytest.mark.parametrize("skip", [False, True])
def test_any_tokens_give_the_same_text(house, skip):
    rng = random.Random(0)
    ids = [[rng.randrange(len(house)) for _ in range(rng.randrange(1, 40))] for _ in range(2000)]
    got = ask_page("decode", tokenizer=file_of(house.backend_tokenizer), ids=ids, skipSpecial=skip)
    assert got == [house.decode(each, skip_special_tokens=skip) for each in ids]


def changed(file, **parts):
    return {**file, **parts}


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "normalizer"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}}, "pre_tokenizer"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}}, "pre_tokenizer"),
        ({"decoder": {"type": "WordPiece"}}, "decoder"),
        ({"model": {"type": "Unigram", "vocab": []}}, "model"),
    ],
)
def test_what_the_page_does_not_know_is_refused_by_name(house, parts, why):
    file = changed(file_of(house.backend_tokenizer), **parts)
    with pytest.raises(ValueError, match=f"cannot read this tokenizer: its {why}"):
        ask_page("encode", tokenizer=file, texts=["a"], marks=False)


@pytest.mark.parametrize("pattern", [r"\w+", r"\p{L}++", r"(?>a)", r"\bab", r"(?i:\p{L})", r"\p{^L}"])
def test_a_pattern_without_exact_counterpart_is_refused(pattern):
    with pytest.raises(ValueError, match=r"cannot be translated exactly|has no counterpart"):
        ask_page("split", patterns=[pattern], texts=["ab"])


def test_patterns_are_translated_with_their_meaning():
    texts = ["a\x85\ufeffb", "I'ſ I'S", "٣4", "a-b [c]"]
    got = ask_page("split", patterns=[r"\s", r"(?i:'s)", r"\d+", r"[\-\[\]]"], texts=texts)
    assert [row[place] for place, row in enumerate(got)] == [["\x85"], ["'ſ", "'S"], ["٣4"], ["-", "[", "]"]]

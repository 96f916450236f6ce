"""Shards and batches: every token once, nothing across documents, and a pure function of (seed, step)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.data.documents import Document
from agent_forge.data.packing import IGNORED, Batches, TokenShard, enough, lay_windows, pack, permuted
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.errors import ArtifactCorrupt, DataError

TEXTS = [f"story {n}: the fox number {n} ran {n * 7} miles over the hill." + " And again." * (n % 9) for n in range(60)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def shards(tokenizer):
    chat = [Document.chat((("user", text), ("assistant", "yes")), "chat") for text in TEXTS]
    return {"plain": pack([Document(text, "plain") for text in TEXTS], tokenizer), "chat": pack(chat, tokenizer)}


@settings(deadline=None)
@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permutation_is_a_bijection(size, key):
    assert sorted(permuted(index, size, key) for index in range(size)) == list(range(size))


def test_permutation_differs_between_keys_and_refuses_what_is_outside():
    one, two = ([permuted(index, 100, key) for index in range(100)] for key in (1, 2))
    assert one != two
    assert one != list(range(100))
    with pytest.raises(ValueError, match="outside"):
        permuted(100, 100, 1)


def test_windows_by_hand():
    # documents of 6, 3, 4 and 9 tokens, windows of 6: the long one is cut into 6 + 4 (one token shared)
    windows = lay_windows(np.array([0, 6, 9, 13, 22]), 6)
    contents = [
        [(int(windows.starts[p]), int(windows.lengths[p])) for p in range(windows.offsets[w], windows.offsets[w + 1])]
        for w in range(len(windows.offsets) - 1)
    ]
    assert contents == [[(0, 6)], [(13, 6)], [(9, 4)], [(18, 4)], [(6, 3)]]


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(0, 90), min_size=1, max_size=60), size=st.integers(2, 40))
def test_every_token_is_predicted_exactly_once(lengths, size):
    offsets = np.cumsum([0, *lengths])
    if max(lengths) < 2:
        with pytest.raises(ValueError, match="nothing to predict"):
            lay_windows(offsets, size)
        return
    windows = lay_windows(offsets, size)
    predicted = np.zeros(offsets[-1], int)
    for start, length in zip(windows.starts, windows.lengths, strict=True):
        predicted[start + 1 : start + length] += 1
    expected = np.ones(offsets[-1], int)
    expected[[start for start, length in zip(offsets[:-1], lengths, strict=True) if length]] = 0
    assert (predicted == expected).all()
    filled = np.add.reduceat(windows.lengths, windows.offsets[:-1])
    assert filled.max() <= size


def test_batch_is_a_function_of_seed_and_step(shards):
    options = {"sequence_length": 64, "batch_size": 4}
    straight = Batches(shards, {"plain": 1, "chat": 1}, seed=5, **options)
    walked = [straight.batch(step) for step in range(12)]
    resumed = Batches(shards, {"chat": 2, "plain": 2}, seed=5, **options)
    for step in (11, 3, 7):
        for name, tensor in resumed.batch(step).items():
            assert torch.equal(tensor, walked[step][name])
    other = Batches(shards, {"plain": 1, "chat": 1}, seed=6, **options).batch(0)
    assert not torch.equal(other["input_ids"], walked[0]["input_ids"])


def test_labels_stay_inside_documents(shards):
    batch = Batches(shards, {"chat": 1}, sequence_length=128, batch_size=8, seed=0).batch(3)
    ids, labels, documents = (batch[name] for name in ("input_ids", "labels", "document_ids"))
    assert ids.dtype == labels.dtype == documents.dtype == torch.int64
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    assert (labels[first | (documents < 0)] == IGNORED).all()
    inside = ~first & (documents >= 0)
    assert torch.equal(labels[inside], ids[inside])
    assert int(documents.max()) >= 1


def test_prompts_can_be_masked(shards, tokenizer):
    batches = Batches(shards, {"chat": 1}, sequence_length=128, batch_size=4, seed=0, mask_prompts=True)
    labels = batches.batch(0)["labels"]
    spoken = tokenizer.decode(labels[0][labels[0] != IGNORED])
    assert set(spoken.replace("<|end|>", " ").split()) == {"yes"}


def test_mixture_is_met_exactly_every_cycle(shards):
    batches = Batches(shards, {"plain": 3, "chat": 1}, sequence_length=64, batch_size=4, seed=0)
    chosen = [batches.window_of(row)[0] for row in range(1024)]
    assert chosen.count("plain") == 768


def test_every_window_once_per_epoch(shards):
    batches = Batches({"plain": shards["plain"]}, {"plain": 1}, sequence_length=64, batch_size=1, seed=9)
    count = batches.num_windows["plain"]
    epochs = [[batches.window_of(epoch * count + row)[1] for row in range(count)] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(count))
    assert epochs[0] != epochs[1]


def test_shard_on_disk_is_the_same_and_damage_is_found(shards, tmp_path):
    shards["chat"].save(tmp_path)
    opened = TokenShard.open(tmp_path)
    assert opened.digest() == shards["chat"].digest()
    assert opened.tokens.dtype == np.uint16
    data = bytearray((tmp_path / "tokens.bin").read_bytes())
    data[10] ^= 1
    (tmp_path / "tokens.bin").write_bytes(bytes(data))
    with pytest.raises(ArtifactCorrupt, match="sha256"):
        TokenShard.open(tmp_path)
    (tmp_path / "tokens.bin").write_bytes(bytes(data[:-2]))
    with pytest.raises(ArtifactCorrupt, match="bytes"):
        TokenShard.open(tmp_path)


@pytest.mark.parametrize(
    ("mixture", "options"),
    [
        ({"plain": 0}, {}),
        ({"plain": -1}, {}),
        ({"nowhere": 1}, {}),
        ({"plain": 1}, {"sequence_length": 1}),
        ({"plain": 1}, {"batch_size": 0}),
    ],
)
def test_impossible_batches_are_refused(shards, mixture, options):
    with pytest.raises(ValueError, match=r"weights|shards|sequence_length"):
        Batches(shards, mixture, **({"sequence_length": 64, "batch_size": 4, "seed": 0} | options))


def test_nothing_to_pack(tokenizer):
    with pytest.raises(DataError, match="no documents"):
        pack([], tokenizer)


def test_enough_text_for_so_many_tokens():
    documents = [Document("x" * 60), Document("y" * 60), Document("z" * 60)]
    assert enough(documents, 0) == documents[:1]
    assert enough(documents, 10) == documents[:1]
    assert enough(documents, 11) == documents[:2]
    assert enough(documents, 1e9) == documents
    assert enough([], 5) == []

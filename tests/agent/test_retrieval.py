"""BM25 by hand and against rank-bm25; vectors of a model; passages of a folder."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from agent_forge.agent.bm25 import BM25, words_of
from agent_forge.agent.embeddings import Similar, embedder, mean_states
from agent_forge.agent.passages import Passage, cut, read_passages
from agent_forge.agent.retrieval import Retriever
from agent_forge.errors import DataError

TEXTS = ["the fox is red", "the bear is brown and the bear is large", "an owl sleeps"]


def test_bm25_by_hand():
    """Lengths 4, 9, 3: the average is 16/3. "bear" is in one text of three, twice."""
    index = BM25(TEXTS, k1=1.2, b=0.75)
    idf = math.log(1 + 2.5 / 1.5)
    assert index.idf("bear") == pytest.approx(idf)
    held_back = 1.2 * (0.25 + 0.75 * 9 / (16 / 3))
    assert index.scores("Bear?").tolist() == pytest.approx([0, idf * 2 * 2.2 / (2 + held_back), 0])
    assert index.idf("whale") == 0
    assert index.scores("whale ").tolist() == [0, 0, 0]
    assert index.scores("").tolist() == [0, 0, 0]


words = st.sampled_from(["fox", "bear", "owl", "red", "the", "of"])
texts = st.lists(st.lists(words, min_size=1, max_size=12).map(" ".join), min_size=1, max_size=8)


@given(texts, st.lists(words, min_size=1, max_size=5).map(" ".join), st.floats(0.1, 3), st.floats(0, 1))
def test_bm25_as_the_reference_has_it(texts, question, k1, b):
    """rank-bm25 with the same weights of words; its own differ (see the header of bm25.py)."""
    ours = BM25(texts, k1=k1, b=b)
    reference = BM25Okapi([words_of(text) for text in texts], k1=k1, b=b)
    holders = {word: sum(word in words_of(text) for text in texts) for word in words_of(" ".join(texts))}
    reference.idf = {word: math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for word, n in holders.items()}
    assert ours.scores(question) == pytest.approx(reference.get_scores(words_of(question)), abs=1e-9)


@given(texts, words)
def test_a_text_with_the_word_is_before_one_without(texts, word):
    scores = BM25(texts).scores(word)
    holds = np.array([word in words_of(text) for text in texts])
    assert (scores[holds] > 0).all()
    assert (scores[~holds] == 0).all()


@given(texts, st.lists(words, min_size=1, max_size=3).map(" ".join))
def test_a_question_asked_twice_counts_twice(texts, question):
    index = BM25(texts)
    assert index.scores(f"{question} {question}") == pytest.approx(2 * index.scores(question))


def test_bm25_refuses():
    with pytest.raises(ValueError, match="no text"):
        BM25([])
    with pytest.raises(ValueError, match="b 2 in 0–1"):
        BM25(["a"], b=2)
    assert BM25(["", ""]).scores("a").tolist() == [0, 0]


def test_vectors_do_not_depend_on_the_batch(agent, tokenizer):
    many = ["Aldale is a town.", "Bo", "Where does Ada Vane live?", ""]
    together = mean_states(agent, tokenizer, many)
    alone = np.stack([mean_states(agent, tokenizer, [text])[0] for text in many])
    assert together == pytest.approx(alone, abs=1e-4)
    assert together.shape == (4, 64)
    assert not together[3].any(), "a text without tokens has no direction"
    small = mean_states(agent, tokenizer, many, batch_tokens=1)
    assert small == pytest.approx(alone, abs=1e-4)


def test_a_vector_is_the_mean_of_what_the_head_reads(agent, tokenizer):
    import torch

    ids = [tokenizer.bos_token_id, *tokenizer.encode("Bo Lock", add_special_tokens=False)]
    with torch.inference_mode():
        states = agent.model(torch.tensor([ids])).last_hidden_state[0]
    assert mean_states(agent, tokenizer, ["Bo Lock"])[0] == pytest.approx(states[1:].mean(0).numpy(), abs=1e-4)


def test_a_text_is_most_like_itself(agent, tokenizer):
    texts = ["Where does Ada Vane live?", "What is 17 + 25?", "It is 22 o'clock.", "Greet me."]
    index = Similar(texts, embedder(agent, tokenizer))
    for place, text in enumerate(texts):
        scores = index.scores(text)
        assert scores.argmax() == place
        assert scores[place] == pytest.approx(1, abs=1e-4)
        assert (np.abs(scores) <= 1 + 1e-5).all()
    assert Similar(["one"], embedder(agent, tokenizer)).scores("one") == pytest.approx([1], abs=1e-4)
    with pytest.raises(ValueError, match="no text"):
        Similar([], embedder(agent, tokenizer))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "fox.txt").write_text("It is red.\n\nIt sleeps by day and hunts by night.")
    (tmp_path / "bear.md").write_text("A bear is brown.\nIt sleeps in winter.")
    (tmp_path / "data.csv").write_text("fox,1")
    return tmp_path


@pytest.mark.parametrize("mode", ["bm25", "embedding"])
def test_a_folder_is_searched(folder, mode, agent, tokenizer):
    retriever = Retriever.of_folder(folder, mode, embedder(agent, tokenizer))
    assert [passage.source for passage in retriever.passages] == ["animals/fox.txt", "bear.md"]
    (passage, score), *_ = retriever.find("A bear is brown. It sleeps in winter.", 1)
    assert passage == Passage("bear.md", "A bear is brown. It sleeps in winter.")
    assert score > 0


def test_names_of_files_are_found(folder):
    (passage, _), *_ = Retriever.of_folder(folder).find("fox")
    assert passage.source == "animals/fox.txt"
    assert Retriever.of_folder(folder).find("whale") == []


def test_equal_scores_keep_the_order():
    retriever = Retriever([Passage("a", "fox"), Passage("a", "fox"), Passage("a", "owl")])
    found = retriever.find("fox", 2)
    assert [passage for passage, _ in found] == [Passage("a", "fox")] * 2
    assert found[0][1] == found[1][1]


def test_what_cannot_be_searched(folder, tmp_path):
    with pytest.raises(ValueError, match="mode 'magic'"):
        Retriever([Passage("a", "b")], "magic")
    with pytest.raises(ValueError, match="needs a model"):
        Retriever([Passage("a", "b")], "embedding")
    with pytest.raises(DataError, match="is no folder"):
        Retriever.of_folder(tmp_path / "nowhere")
    empty = tmp_path / "animals" / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="holds no text"):
        Retriever.of_folder(empty)
    with pytest.raises(ValueError, match="at least 8"):
        read_passages(folder, 3)


def test_links_that_lead_out_are_not_followed(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("a secret of the machine")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "inner.txt").symlink_to(folder / "bear.md")
    assert {passage.source for passage in read_passages(folder)} == {"animals/fox.txt", "bear.md", "inner.txt"}


def test_bytes_that_are_no_text_do_not_stop_it(folder):
    (folder / "odd.txt").write_bytes(b"caf\xe9 is \xff open")
    assert Retriever.of_folder(folder).find("open")[0][0].source == "odd.txt"


def test_cut_by_hand():
    text = "One two three.\n\nFour five. Six seven eight nine. Ten.\n\nEnd."
    assert list(cut(text, 4)) == ["One two three.", "Four five.", "Six seven eight nine.", "Ten. End."]
    assert list(cut("a b c d e f", 4)) == ["a b c d", "e f"]
    assert list(cut("  \n\n ", 8)) == []


@given(st.text(alphabet="ab. \n", max_size=200), st.integers(1, 10))
def test_cutting_loses_no_word(text, most):
    pieces = list(cut(text, most))
    assert " ".join(pieces).split() == text.split()
    assert all(0 < len(piece.split()) <= most for piece in pieces)

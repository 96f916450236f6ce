"""Nats of the model's own words."""

import math

import pytest
import torch

from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import encode_documents, train_tokenizer
from agent_forge.evaluation.answer_nats import answer_nats

TALK = Document.chat([("user", "How many eggs?"), ("assistant", "It is 3.")])
LONG = Document.chat([("user", "How many eggs are there in the dairy?"), ("assistant", "No, it is 12.")])


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(["How many eggs? It is 3. No, it is 12 in the dairy."] * 5, 300)


def test_a_model_that_knows_nothing_pays_the_logarithm_of_its_vocabulary(make_llama, words):
    model = make_llama()
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    found = answer_nats(model, words, [TALK, LONG])
    assert found.mean == pytest.approx(math.log(300), abs=1e-4)


def test_only_the_assistants_words_count_and_neighbours_change_nothing(make_llama, words):
    model = make_llama()
    (encoded,) = encode_documents(words, [TALK])
    own = [n for n, given in enumerate(encoded.prompted) if n and not given]
    with torch.inference_mode():
        costs = -model(input_ids=torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
    by_hand = sum(float(costs[n - 1, encoded.ids[n]]) for n in own)
    alone, beside = answer_nats(model, words, [TALK]), answer_nats(model, words, [LONG, TALK])
    assert alone.nats[0] == pytest.approx(by_hand, rel=1e-5)
    assert alone.tokens.tolist() == [len(own)]
    assert beside.nats[1] == pytest.approx(alone.nats[0], rel=1e-5)
    assert beside.part(slice(1, 2)).mean == pytest.approx(alone.mean, rel=1e-5)


def test_plain_text_counts_whole(make_llama, words):
    found = answer_nats(make_llama(), words, [Document("It is 3.")])
    assert found.tokens[0] == len(next(iter(encode_documents(words, [Document("It is 3.")]))).ids) - 1


def test_a_question_without_room_for_its_answer_has_nothing_to_count(make_llama, words):
    with pytest.raises(ValueError, match="none of 1 documents"):
        answer_nats(make_llama(), words, [TALK], max_length=2)

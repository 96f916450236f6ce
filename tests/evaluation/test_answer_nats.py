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


TOOLS = Document.chat(
    [("user", "How many eggs?"), ("assistant", "No, it is"), ("user", "12 in"), ("assistant", "It is 3.")]
)


def costs_of(model, ids):
    with torch.inference_mode():
        costs = -model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return [0.0, *(float(costs[n - 1, ids[n]]) for n in range(1, len(ids)))]


def test_to_the_end_counts_what_is_told_in_between(make_llama, words):
    model = make_llama()
    (encoded,) = encode_documents(words, [TOOLS])
    costs = costs_of(model, encoded.ids)
    begins = encoded.prompted.index(False, 1)
    between = answer_nats(model, words, [TOOLS], to_the_end=True)
    assert between.tokens.tolist() == [len(encoded.ids) - begins]
    assert between.nats[0] == pytest.approx(sum(costs[begins:]), rel=1e-5)
    own = answer_nats(model, words, [TOOLS])
    places = [n for n, told in enumerate(encoded.prompted) if n and not told]
    assert begins < places[-1] - len(places) + 1, "something is told in between"
    assert own.tokens.tolist() == [len(places)]
    assert own.nats[0] == pytest.approx(sum(costs[n] for n in places), rel=1e-5)
    # one answer at the end: both ways are the same
    both = [answer_nats(model, words, [TALK, LONG], to_the_end=way) for way in (False, True)]
    assert both[0].nats.tolist() == both[1].nats.tolist()
    assert both[0].tokens.tolist() == both[1].tokens.tolist()


def test_a_long_document_loses_its_end_or_its_beginning(make_llama, words):
    model = make_llama()
    (encoded,) = encode_documents(words, [LONG])
    length = len(encoded.ids) - 3
    kept_end = answer_nats(model, words, [LONG], max_length=length, to_the_end=True)
    begins = encoded.prompted.index(False, 1)
    assert kept_end.nats[0] == pytest.approx(sum(costs_of(model, encoded.ids[3:])[begins - 3 :]), rel=1e-5)
    kept_start = answer_nats(model, words, [LONG], max_length=length)
    assert kept_start.nats[0] == pytest.approx(sum(costs_of(model, encoded.ids[:-3])[begins:]), rel=1e-5)
    assert kept_start.tokens[0] == kept_end.tokens[0] - 3


def test_a_cut_inside_the_only_answer_leaves_what_can_be_predicted(make_llama, words):
    """Nothing given stands before the answer any more: all but the first token counts."""
    found = answer_nats(make_llama(), words, [LONG], max_length=3, to_the_end=True)
    assert found.tokens.tolist() == [2]


def test_a_document_beside_which_nothing_counts_costs_nothing(make_llama, words):
    question = Document.chat([("user", "How many eggs?")])
    found = answer_nats(make_llama(), words, [question, TALK])
    assert (found.nats[0], found.tokens[0]) == (0.0, 0)
    assert found.mean == pytest.approx(answer_nats(make_llama(), words, [TALK]).mean, rel=1e-5)


def test_a_question_without_room_for_its_answer_has_nothing_to_count(make_llama, words):
    with pytest.raises(ValueError, match="none of 1 documents"):
        answer_nats(make_llama(), words, [TALK], max_length=2)

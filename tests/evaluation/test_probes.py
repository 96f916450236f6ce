"""Probes: a model that cannot look back is at chance, one that can is not."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.evaluation.probes import key_value_batch, key_value_recall, long_range_accuracy, position_probe


def llama(layers=1):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=2200, **sizes)).eval()


class Oracle(torch.nn.Module):
    """Knows the answer: the token that follows the first occurrence of the last one."""

    def __init__(self, looks_back=10**6):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config, self.looks_back = LlamaConfig(vocab_size=64), looks_back

    def forward(self, input_ids, use_cache):
        logits = torch.zeros(*input_ids.shape, 64)
        for row, ids in enumerate(input_ids.tolist()):
            place = ids.index(ids[-1])
            if len(ids) - 1 - place <= self.looks_back:
                logits[row, -1, ids[place + 1]] = 1
        return type("Output", (), {"logits": logits})


def test_batch_by_hand():
    generator = torch.Generator().manual_seed(1)
    ids, answers, candidates = key_value_batch(
        length=20, num_pairs=3, batch_size=5, vocabulary=(10, 40), generator=generator
    )
    assert ids.shape == (5, 20)
    for row, answer, own in zip(ids.tolist(), answers.tolist(), candidates.tolist(), strict=True):
        keys, values = row[0:6:2], row[1:6:2]
        assert len(set(keys)) == len(set(values)) == 3
        assert values == own
        assert answer == values[keys.index(row[-1])]
        assert all(10 <= key < 20 for key in keys)
        assert all(20 <= value < 30 for value in values)
        assert all(30 <= other < 40 for other in row[6:-1])


def test_the_oracle_recalls_everything():
    recall = key_value_recall(Oracle(), length=40, queries=16)
    assert (recall.accuracy, recall.exact, recall.chance, recall.queries) == (1.0, 1.0, 0.125, 16)
    assert position_probe(Oracle(), queries=4) == {10: 1.0, 100: 1.0, 1000: 1.0}
    assert long_range_accuracy(Oracle(), queries=4) == 1.0


def test_a_short_memory_fails_far_away_only():
    probe = position_probe(Oracle(looks_back=200), queries=64)
    assert probe[10] == probe[100] == 1.0
    assert probe[1000] < 0.6


def test_an_untrained_model_is_near_chance():
    recall = key_value_recall(llama(), length=40, num_pairs=4, queries=64)
    assert recall.accuracy < 0.6
    assert recall == key_value_recall(llama(), length=40, num_pairs=4, queries=64)
    assert recall.to_json()["length"] == 40


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="pairs fit neither"):
        key_value_recall(llama(), length=8, num_pairs=4)

import re

import pytest

from agent_forge.errors import ConfigError
from agent_forge.model import CognateConfig
from agent_forge.model.parameters import check_budget, count_parameters


def test_counts_of_a_model_checked_on_paper(small):
    counts = count_parameters(small(memory="ema"))
    assert counts == {
        "attention": 2 * 4 * 32 * 32,
        "convolution": 2 * 2 * 4 * 32,
        "embedding": 97 * 32,
        "gate": 2 * (64 * 12 + 12 * 32 + 32),
        "memory": 2 * 2 * 32 * 16,
        "mlp": 2 * 3 * 32 * 48,
        "norm": (2 * 2 + 1) * 32 + 2 * 2 * 8,
        "total": sum(parameter.numel() for parameter in small(memory="ema").parameters()),
    }


def test_a_configuration_counts_like_its_model(small):
    model = small(memory="ema", value_residual=True)
    assert count_parameters(model.config) == count_parameters(model)


def test_the_default_shape_is_within_one_percent_of_25_million():
    counts = check_budget(CognateConfig(), 25_000_000, 0.01)
    assert 24_750_000 <= counts["total"] <= 25_250_000


def test_the_specifications_figures_are_refused_with_computed_savings():
    config = CognateConfig(vocab_size=32768, intermediate_size=2048, memory="ema")
    with pytest.raises(ConfigError) as refused:
        check_budget(config, 25_000_000, 0.01)
    message = str(refused.value)
    total = count_parameters(config)["total"]
    assert f"{total:,}" in message
    assert f"embedding {32768 * 512:,}" in message
    # every printed saving is what the changed configuration really saves
    found = re.findall(r"(\w+) (\d+) → (\d+): ([+-][\d,]+)", message)
    assert {knob for knob, *_ in found} >= {"memory_size", "gate_size", "num_hidden_layers", "vocab_size"}
    for knob, _, changed, saving in found:
        smaller = count_parameters(CognateConfig(**{**config.to_dict(), knob: int(changed)}))["total"]
        assert smaller - total == int(saving.replace(",", ""))
        assert smaller < total


def test_too_small_a_model_is_refused_with_ways_to_grow():
    with pytest.raises(ConfigError, match=r"fewer than.*num_hidden_layers 4 → 5: \+"):
        check_budget(CognateConfig(num_hidden_layers=4), 25_000_000, 0.01)

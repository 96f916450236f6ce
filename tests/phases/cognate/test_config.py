import pytest
from pydantic import ValidationError

from agent_forge.model import CognateConfig
from agent_forge.model.parameters import check_budget
from agent_forge.phases.cognate.config import CognatePhaseConfig


def test_the_default_shape_is_the_reference_of_25_million():
    config = CognatePhaseConfig()
    counts = check_budget(CognateConfig(**config.model.model_dump()), 25_000_000)
    assert 24_750_000 <= counts["total"] <= 25_250_000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lengths": [{"start": 0.5, "tokens": 64}]}, "start at 0"),
        ({"batch_tokens": 256}, "does not fit"),
        ({"warmup_fraction": 0.6, "decay_fraction": 0.6}, "exceed the run"),
        ({"learning_rat": 1.0}, "learning_rat"),
        ({"model": {"memory": "lstm"}}, "memory"),
    ],
)
def test_refuses(values, message):
    with pytest.raises(ValidationError, match=message):
        CognatePhaseConfig.model_validate(values)

"""Rules on the files at the seams, with small folders in the place of checkpoints."""

from __future__ import annotations

import json

import pytest

from agent_forge.errors import HandoffError
from agent_forge.pipeline.handoffs import check_handoffs
from agent_forge.pipeline.memory_context import MemoryContext

CONFIG = {"model_type": "cognate", "hidden_size": 16, "act": True, "halting_threshold": 0.5, "dtype": "float32"}


@pytest.fixture
def checkpoints(tmp_path):
    """Makes one trunk and two branches whose config.json has the given changes."""
    context = MemoryContext(tmp_path / "context")

    def make(**changes):
        made = []
        for name, own in (("trunk", {}), ("a", {}), ("b", changes)):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps({**CONFIG, **own}))
            (folder / "model.safetensors").write_text(name)
            made.append(context.adopt("checkpoint", folder))
        return {"trunk": made[0], "specialists": tuple(made[1:])}, context

    return make


@pytest.mark.parametrize(
    "changes", [{}, {"halting_threshold": 0.6}, {"_name_or_path": "x", "transformers_version": "9"}]
)
def test_a_threshold_that_training_moved_is_no_other_architecture(checkpoints, changes):
    assert check_handoffs(("same_architecture", "different_weights"), *checkpoints(**changes)) is None


@pytest.mark.parametrize("changes", [{"hidden_size": 32}, {"act": False}, {"memory": "ema"}])
def test_another_shape_is_refused_by_its_key(checkpoints, changes):
    (key,) = changes
    with pytest.raises(HandoffError, match=f"^{key} is .* of trunk and .* in specialists"):
        check_handoffs(("same_architecture",), *checkpoints(**changes))


def test_an_unknown_rule_is_refused(checkpoints):
    with pytest.raises(HandoffError, match="unknown handoff rule"):
        check_handoffs(("same_colour",), *checkpoints())

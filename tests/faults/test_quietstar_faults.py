"""Failures of phase 3, injected."""

import pytest
from tests.phases.quietstar.tiny import QUICK, run, write_inputs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("quietstar"))


def test_pr3_incoherent_thoughts_are_not_injected(folders, tmp_path):
    """A model with one step of practice babbles: its thoughts are counted, skipped, and the gate's figure fails."""
    config = QUICK.model_copy(update={"habit_steps": 1, "quiet_steps": 0})
    artifact, context = run(folders, tmp_path, config)
    measured = context.measured
    assert "PR3" in [failure for failure, _, _ in context.warnings]
    assert measured["quietstar/skipped"] > 3
    assert measured["quietstar/valid_thoughts_fraction"] < 0.75
    assert measured["quietstar/accuracy_on"] == measured["quietstar/accuracy_off"]
    assert context.path(artifact).is_dir()


def test_pr3_a_questions_that_need_no_thought_are_told(folders, tmp_path):
    """Without practice worth the name thoughts gain nothing: it is said, with both figures, and the gate fails."""
    config = QUICK.model_copy(update={"habit_steps": 1, "quiet_steps": 0})
    _, context = run(folders, tmp_path, config)
    (evidence,) = [found for failure, _, found in context.warnings if failure == "PR3-A"]
    assert evidence["on"] <= evidence["off"]
    assert context.measured["quietstar/gain_over_off"] < 0.15


def test_pr3_d_a_policy_that_diverges_is_rolled_back_and_given_up(folders, tmp_path):
    """Rates a thousand times too high: three roll-backs, each halving the policy weight, then no policy."""
    config = QUICK.model_copy(
        update={
            "habit_steps": 2,
            "quiet_steps": 40,
            "quiet_learning_rate": 0.5,
            "max_divergence": 0.01,
            "watch_window": 1,
            "checkpoint_every": 100,
        }
    )
    _, context = run(folders, tmp_path, config)
    seen = [(message, evidence) for failure, message, evidence in context.warnings if failure == "PR3-D"]
    assert [evidence["policy_weight"] for _, evidence in seen] == pytest.approx([0.05, 0.025, 0.0])
    assert all("last good state" in message for message, _ in seen)
    assert context.measured["quietstar/policy_failed"] == 1.0
    assert context.measured["quietstar/policy_restores"] == 3.0
    assert len(context.attachments["quietstar"]["diagnosis"]) == 3
    # the weights are those of the last good state: ordinary text is what the habit made of it
    assert context.measured["quietstar/bits_per_byte_ratio"] < 2.0

"""Costs grow with what causes them, and the machine is measured, not assumed."""

import pytest

from agent_forge.config import build_config
from agent_forge.pipeline.costs import Machine, cost, measure

MACHINE = Machine(flops=5e10, elements=5e8, cores=2)
PARAMETERS = 1_000_000


def of(phase, *overrides, parameters=PARAMETERS, machine=MACHINE):
    return cost(phase, build_config("smoke", overrides), parameters, machine)


@pytest.mark.parametrize(
    ("phase", "override"),
    [
        ("data", "data.synthetic_bytes=40000000"),
        ("cognate", "cognate.steps=5000"),
        ("cognate", "cognate.specialize_from=scratch"),
        ("evomerge", "evomerge.generations=30"),
        ("quietstar", "quietstar.habit_steps=5000"),
        ("quietstar", "quietstar.thought_length=60"),
        ("bitnet", "bitnet.recovery_steps=5000"),
        ("forge", "forge.stage_steps=500"),
        ("forge", "forge.assessment_questions=500"),
        ("compression", "compression.evaluation_documents=500"),
        ("compression", "compression.codecs=[vptq, seedlm]"),
    ],
)
def test_more_work_takes_longer(phase, override):
    assert of(phase, override).seconds > of(phase).seconds


@pytest.mark.parametrize("phase", ["cognate", "evomerge", "quietstar", "bitnet", "forge", "compression"])
def test_a_larger_model_needs_more_of_everything(phase):
    small, large = of(phase), of(phase, parameters=10 * PARAMETERS)
    assert large.seconds > small.seconds
    assert large.memory_bytes > small.memory_bytes
    assert large.disk_bytes > small.disk_bytes


@pytest.mark.parametrize("phase", ["cognate", "evomerge", "quietstar", "bitnet", "forge", "compression"])
def test_a_faster_machine_is_done_sooner(phase):
    assert of(phase, machine=Machine(5e12, 5e10, 2)).seconds < of(phase).seconds


def test_twice_the_steps_take_about_twice_the_training_time():
    once, twice = of("cognate", "cognate.steps=10000").seconds, of("cognate", "cognate.steps=20000").seconds
    assert twice / once == pytest.approx(2.0, abs=0.1)


def test_micro_batches_save_memory_and_not_time():
    whole, split = of("cognate", "cognate.batch_tokens=65536"), of(
        "cognate", "cognate.batch_tokens=65536", "cognate.micro_batch_tokens=1024"
    )  # fmt: skip
    assert split.memory_bytes < whole.memory_bytes
    assert split.seconds == whole.seconds


def test_files_are_counted_as_they_are(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("word " * 200_000)
    from agent_forge.pipeline.costs import source_bytes

    assert source_bytes(build_config("smoke", ["data.tool_share=0"], sources=[str(path)])) == 1_000_000
    assert source_bytes(build_config("smoke", ["data.tool_share=0.1"], sources=[str(path)])) == 1_040_000


def test_an_unknown_phase_is_no_guess():
    with pytest.raises(KeyError):
        of("polish")


def test_the_machine_is_measured_and_its_threads_given_back():
    import torch

    before = torch.get_num_threads()
    machine = measure(64, 192, 1024, "cpu", 1, "fp32")
    assert machine.cores == 1
    assert 1e8 < machine.flops < 1e15
    assert 1e6 < machine.elements < 1e13
    assert torch.get_num_threads() == before

"""Targets: bounds, estimates that say so, and measurements in a process of their own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from agent_forge.phases.edge.speed import (
    JOINED,
    TORCH,
    machine_rates,
    measure_torch,
    prompt,
    shipped_bytes,
)
from agent_forge.phases.edge.targets import CONTEXT_BYTES, PAGE_BYTES, TARGETS, Speed, fit, is_such

HERE = Speed(
    "torch", "cpu", "x86_64", 2, 0.02, 200.0, 4 * 10**8, 5 * 10**6,
    parameters=10**6, operations_prompt=800, operations_token=900, flops=100e9, bytes_per_second=11e9,
)  # fmt: skip


def row(found, metric):
    return next(verdict for verdict in found.verdicts if verdict.metric == metric)


def test_the_machine_at_hand_is_measured():
    found = fit(TARGETS["cpu-x86"], [HERE])
    assert found.met
    assert found.measured
    assert [verdict.basis for verdict in found.verdicts] == ["measured"] * 4
    assert "2 threads of the 4" in row(found, "first_token_seconds").how
    assert row(found, "memory_bytes").value == 4 * 10**8


def test_another_processor_is_estimated_by_the_worse_ratio_on_paper():
    found = fit(TARGETS["cpu-arm64"], [HERE])
    # products 100/24 = 4.17, memory 11/5.5 = 2: 4.17 counts
    assert row(found, "first_token_seconds").value == pytest.approx(0.02 * 100 / 24)
    assert row(found, "tokens_per_second").value == pytest.approx(200 * 24 / 100)
    assert not found.measured
    assert row(found, "tokens_per_second").basis == "estimated"
    assert "4.2" in row(found, "tokens_per_second").how
    assert row(found, "size_bytes").basis == "measured"  # of files, wherever they run


def test_a_card_is_estimated_from_operations_on_paper():
    found = fit(TARGETS["gpu-6gb"], [HERE])
    # 800 · 10 µs + 4 MB / 192 GB/s + 2 · 128 · 10⁶ / 5 TFLOP/s
    assert row(found, "first_token_seconds").value == pytest.approx(0.008 + 4e6 / 192e9 + 256e6 / 5e12)
    assert row(found, "tokens_per_second").value == pytest.approx(1 / (0.009 + 4e6 / 192e9))
    assert row(found, "memory_bytes").value == CONTEXT_BYTES + 8 * 10**6
    assert not found.measured


def test_a_measurement_on_such_a_machine_goes_before_estimates():
    pi = replace(HERE, architecture="aarch64", first_token_seconds=0.9, board="Raspberry Pi 4 Model B Rev 1.4")
    found = fit(TARGETS["cpu-arm64"], [HERE, pi])
    assert found.measured
    assert row(found, "first_token_seconds").value == 0.9
    assert not found.met
    page = replace(HERE, runtime="onnxruntime-web", kind="browser", architecture="wasm")
    assert is_such(TARGETS["browser"], page)
    assert fit(TARGETS["browser"], [HERE, page]).runtime == "onnxruntime-web"


@pytest.mark.parametrize("board", ["", "Raspberry Pi 5 Model B Rev 1.0"])
def test_another_arm_machine_is_no_raspberry_pi_4(board):
    server = replace(HERE, architecture="aarch64", board=board)
    assert not fit(TARGETS["cpu-arm64"], [server]).measured


def test_more_cores_than_the_target_has_are_an_estimate():
    assert fit(TARGETS["cpu-x86"], [replace(HERE, cores=4)]).measured
    found = fit(TARGETS["cpu-x86"], [replace(HERE, cores=64, flops=4e12, bytes_per_second=200e9)])
    assert not found.measured
    assert row(found, "first_token_seconds").value == pytest.approx(0.02 * 20)
    assert "with 64 threads, times 20.0" in row(found, "first_token_seconds").how


def test_a_page_brings_its_runtime():
    size = row(fit(TARGETS["browser"], [HERE]), "size_bytes")
    assert (size.value, size.basis) == (5 * 10**6 + PAGE_BYTES, "estimated")


def test_the_form_that_fits_best_is_taken():
    slow, quick = (
        replace(HERE, first_token_seconds=0.06),
        replace(HERE, runtime="onnxruntime", first_token_seconds=0.03),
    )
    assert fit(TARGETS["cpu-x86"], [slow, quick]).runtime == "onnxruntime"
    assert fit(TARGETS["browser"], [slow, quick]).runtime == "onnxruntime"
    assert fit(TARGETS["gpu-6gb"], [replace(quick, operations_token=0), slow]).runtime == "torch"


@pytest.mark.parametrize(
    ("change", "metric"),
    [
        ({"first_token_seconds": 0.0501}, "first_token_seconds"),
        ({"tokens_per_second": 99.9}, "tokens_per_second"),
        ({"memory_bytes": 2 * 10**9 + 1}, "memory_bytes"),
        ({"size_bytes": 100 * 10**6 + 1}, "size_bytes"),
        ({"first_token_seconds": math.nan}, "first_token_seconds"),
        ({"tokens_per_second": math.nan}, "tokens_per_second"),
    ],
)
def test_each_bound_can_be_missed(change, metric):
    found = fit(TARGETS["cpu-x86"], [replace(HERE, **change)])
    assert not found.met
    assert [verdict.metric for verdict in found.verdicts if not verdict.met] == [metric]


def test_every_target_names_every_bound():
    assert list(TARGETS) == ["cpu-x86", "cpu-arm64", "gpu-6gb", "browser"]
    for target in TARGETS.values():
        found = fit(target, [HERE])
        assert len(found.verdicts) == 4
        assert all(verdict.how for verdict in found.verdicts)
        assert json.loads(json.dumps(found.to_json()))["target"] == target.name


def test_a_form_is_measured_and_joined_layers_take_fewer_operations(agent):
    speeds = [measure_torch(agent, 1, 2, 1, joined=joined) for joined in (False, True)]
    assert [speed.runtime for speed in speeds] == [TORCH, JOINED]
    for speed in speeds:
        assert speed.first_token_seconds > 0
        assert speed.tokens_per_second > 0
        assert speed.memory_bytes > 10**8
        assert speed.flops > 0
        assert speed.bytes_per_second > 0
        assert speed.cores == 1
    assert speeds[1].operations_token < speeds[0].operations_token
    assert speeds[1].operations_prompt < speeds[0].operations_prompt


def test_what_the_parent_holds_is_not_counted(agent):
    """A child's ``ru_maxrss`` starts at its parent's memory."""
    held = torch.ones(400_000_000, dtype=torch.uint8)
    program = "from agent_forge.phases.edge.speed import _peak_memory; print(_peak_memory())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < held.numel()


def test_packed_weights_are_what_is_shipped(agent, tmp_path):
    files = {path.name: path.stat().st_size for path in agent.iterdir()}
    assert shipped_bytes(agent) == sum(files.values()) - files["model.safetensors"]
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    assert shipped_bytes(tmp_path) == 5


def test_the_prompt_has_as_many_tokens_as_asked_for(agent):
    assert len(prompt(agent)) == 128
    assert len(prompt(agent, 7)) == 7
    assert prompt(agent, 300)[:128] == prompt(agent)


def test_rates_of_the_machine_are_plausible():
    flops, bandwidth = machine_rates()
    assert 1e8 < flops < 1e15
    assert 1e8 < bandwidth < 1e13


def test_an_unknown_target_is_refused_before_anything_is_measured(forge, agent):
    found = forge("edge", "bench", agent, "--target", "toaster")
    assert found.code == 2
    assert "cpu-x86, cpu-arm64, gpu-6gb, browser" in found.sentence()


def test_the_map_has_eight_phases_in_order(forge):
    rows = forge("phases", "--json").json()
    assert [row["phase"] for row in rows] == [
        "cognate", "evomerge", "quietstar", "bitnet", "forge", "baking", "edge", "compression",
    ]  # fmt: skip
    assert [row["number"] for row in rows] == list(range(1, 9))
    assert all(row["does"] and row["takes"] and row["gives"] for row in rows)
    told = forge("phases")
    assert told.code == 0
    assert "8 compression" in told.out
    assert "(checkpoint)" in told.out

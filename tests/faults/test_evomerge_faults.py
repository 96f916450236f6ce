"""Failures of phase 2, injected for real: CF1 (memory), G1 (broken recursion), NaN and mismatched parents."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.phases.evomerge.tiny import QUICK, family, phase_inputs, tiny_model, trained_family

from agent_forge.contract import Budget, one
from agent_forge.data.corpora import Corpus
from agent_forge.errors import HandoffError
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import load_model, save_model
from agent_forge.phases.evomerge.candidate import ParentTensors, Resident
from agent_forge.phases.evomerge.checkpoint_folder import CheckpointFolder
from agent_forge.phases.evomerge.config import EvomergeConfig
from agent_forge.phases.evomerge.evolution import drawn_from
from agent_forge.phases.evomerge.genotype import average_genotype, random_genotype, tidy
from agent_forge.phases.evomerge.memory_watch import MemoryWatch, resident_bytes
from agent_forge.phases.evomerge.phase import PHASE, recursion_figures
from agent_forge.phases.evomerge.search import Search
from agent_forge.pipeline.memory_context import MemoryContext


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    trained_family(folder)
    return folder


def seen(context: MemoryContext, failure: str) -> list[tuple[str, str, dict[str, float]]]:
    """The warnings of one entry of the premortem."""
    return [warning for warning in context.warnings if warning[0] == failure]


def test_cf1_short_memory_goes_to_disk_then_shrinks_the_population(world: Path, tmp_path: Path) -> None:
    # A limit that the process has reached already: every look finds memory short.
    context = MemoryContext(tmp_path, seed=3, budget=Budget(bytes=resident_bytes()))
    config = EvomergeConfig(**{**QUICK, "generations": 3, "control_fraction": 0.0})
    outputs = PHASE.run(config, phase_inputs(context, world), context)
    short = seen(context, "CF1")
    assert len(short) == 2
    assert "disk population" in short[0][1]
    assert "smaller population" in short[1][1]
    assert all(evidence["used_fraction"] >= 0.8 for _, _, evidence in short)
    sizes = [metrics["evomerge/population"] for _, metrics in context.logged if "evomerge/population" in metrics]
    assert sizes == [8, 8, 4, 4]
    assert one(outputs, "model").files


def test_cf1_a_population_on_disk_finds_the_same_champion(world: Path, tmp_path: Path) -> None:
    digests = []
    for number, limit in enumerate((None, resident_bytes())):
        context = MemoryContext(tmp_path / str(number), seed=3, budget=Budget(bytes=limit))
        config = EvomergeConfig(**{**QUICK, "generations": 0, "control_fraction": 0.0})
        digests.append(one(PHASE.run(config, phase_inputs(context, world), context), "model").digest)
        assert len(seen(context, "CF1")) == (0 if limit is None else 1)
    assert digests[0] == digests[1]


def test_cf1_memory_does_not_grow_with_candidates(tmp_path: Path) -> None:
    size = {"hidden_size": 192, "intermediate_size": 512, "vocab_size": 2048, "num_hidden_layers": 4}
    for seed, name in enumerate(("trunk", "a", "b")):
        tiny_model(seed, **size).save_pretrained(tmp_path / name)
    parents = ParentTensors(CheckpointFolder(tmp_path / "trunk"), [CheckpointFolder(tmp_path / n) for n in "ab"])
    space = parents.space(4, 0)
    resident = Resident(tiny_model(**size), parents, space)
    one_model = sum(p.numel() * 4 for p in resident.model.parameters())
    after = []
    for number in range(36):
        resident.become(random_genotype(space, drawn_from(number, "g")))
        after.append(resident_bytes())
    assert after[-1] - after[7] < one_model


def test_cf1_nothing_is_done_below_the_limit() -> None:
    watch = MemoryWatch(10 * resident_bytes(), 0.8, [("step", lambda: True)])
    assert watch.look() is None
    assert watch.taken == []
    ballast = bytearray(b"x" * (300 << 20))  # a real allocation takes it over a limit that is near
    near = MemoryWatch(int(resident_bytes() / 0.9), 0.8, [("free", lambda: ballast.clear() is None)])
    seen = near.look()
    assert seen is not None
    assert seen[0] == "free"
    assert near.look() is None  # and what was freed was given back to the system


def cognate_family(folder: Path, world: Path, spread: float) -> None:
    """A Cognate with memory and gate, and three branches whose gates lean further towards the memory."""
    _, tokenizer = load_model(world / "trunk")
    config = CognateConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        memory="ema", memory_size=16, gate=True, gate_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CognateForCausalLM(config)
    save_model(model, tokenizer, folder / "trunk", {})
    biases = {name: p for name, p in model.named_parameters() if "gate." in name and name.endswith("bias")}
    assert biases
    start = {name: bias.detach().clone() for name, bias in biases.items()}
    for number in range(3):
        with torch.no_grad():
            for name, bias in biases.items():
                bias.copy_(start[name] + spread + 0.1 * number)
        save_model(model, tokenizer, folder / f"specialist{number}", {})


def test_g1_a_gate_outside_the_parents_range_is_told(world: Path, tmp_path: Path) -> None:
    cognate_family(tmp_path / "family", world, spread=0.8)
    parents = ParentTensors(
        CheckpointFolder(tmp_path / "family" / "trunk"),
        [CheckpointFolder(tmp_path / "family" / f"specialist{i}") for i in range(3)],
    )
    model, tokenizer = load_model(tmp_path / "family" / "trunk")
    context = MemoryContext(tmp_path)
    corpus = Corpus.open(world / "corpus")
    search = Search(EvomergeConfig(**QUICK), context, parents, model, tokenizer, corpus)
    sound = recursion_figures(search, average_genotype(search.space))
    assert sound == {"halting_inside_parents_range": 1.0}
    assert seen(context, "G1") == []
    broken = tidy(replace(average_genotype(search.space), strengths=(3.0,) * search.space.groups), search.space)
    assert recursion_figures(search, broken) == {"halting_inside_parents_range": 0.0}
    assert {failure for failure, _, _ in context.warnings} - {"few documents"} == {"G1"}
    assert any("gate/m_usage" in message for _, message, _ in context.warnings)


@pytest.mark.parametrize("injury", ["nan", "missing", "shape", "equal"])
def test_parents_that_cannot_be_merged_stop_the_phase_before_anything_is_saved(
    injury: str, world: Path, tmp_path: Path
) -> None:
    shutil.copytree(world, tmp_path / "world")
    file = tmp_path / "world" / "specialist1" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    if injury == "nan":
        tensors[name][0, 0] = float("nan")
    elif injury == "missing":
        del tensors[name]
    elif injury == "shape":
        tensors[name] = torch.ones(3, 3)
    save_file(tensors, file, metadata={"format": "pt"})
    if injury == "equal":
        for number in (1, 2):
            shutil.copy(
                tmp_path / "world" / "specialist0" / "model.safetensors", tmp_path / "world" / f"specialist{number}"
            )
    context = MemoryContext(tmp_path / "run")
    pattern = "all parents are equal" if injury == "equal" else name
    with pytest.raises(HandoffError, match=pattern):
        PHASE.run(EvomergeConfig(**QUICK), phase_inputs(context, tmp_path / "world"), context)
    assert context.measured == {}
    assert context.states == []
    assert not (tmp_path / "run" / "artifacts").exists()


def test_a_merge_that_is_killed_half_way_leaves_no_checkpoint(tmp_path: Path) -> None:
    import os
    import signal
    import subprocess
    import sys
    import time

    size = {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 8192, "num_hidden_layers": 6}
    for seed, letter in enumerate("ab"):
        tiny_model(seed, **size).save_pretrained(tmp_path / letter)
    code = (
        "from pathlib import Path\n"
        "from agent_forge.phases.evomerge.merge_checkpoints import merge_folders\n"
        f"merge_folders([Path({str(tmp_path / 'a')!r}), Path({str(tmp_path / 'b')!r})], Path({str(tmp_path / 'o')!r}))"
    )
    merge = subprocess.Popen([sys.executable, "-c", code])
    while merge.poll() is None and not list(tmp_path.glob(".o.partial-*/model.safetensors")):
        time.sleep(0.002)
    if merge.poll() is None:
        os.kill(merge.pid, signal.SIGKILL)
    merge.wait()
    assert merge.returncode == 0 or not (tmp_path / "o").exists()
    family(tmp_path / "after", "ab")  # and a later merge is not in its way
    again = subprocess.run(
        [sys.executable, "-c", code.replace("'o'", "'again'").replace("/o'", "/again'")], check=False
    )
    assert again.returncode == 0
    assert (tmp_path / "again" / "model.safetensors").exists()

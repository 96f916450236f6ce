from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.phases.evomerge.tiny import QUICK, phase_inputs

from agent_forge.contract import Phase, many, one
from agent_forge.data.corpora import Corpus
from agent_forge.errors import Interrupted
from agent_forge.model.checkpoint import load_model
from agent_forge.phases.evomerge.candidate import ParentTensors
from agent_forge.phases.evomerge.checkpoint_folder import CheckpointFolder
from agent_forge.phases.evomerge.config import EvomergeConfig
from agent_forge.phases.evomerge.evolution import Individual
from agent_forge.phases.evomerge.phase import PHASE
from agent_forge.phases.evomerge.search import Search
from agent_forge.pipeline.memory_context import MemoryContext


class Stopping(MemoryContext):
    """Stops, as after Ctrl-C, once so many checkpoints are written."""

    after = 10**9

    def checkpoint(self, state: Mapping[str, Any], step: int) -> None:
        super().checkpoint(state, step)
        self.stopping = len(self.states) >= self.after


def run(context: MemoryContext, world: Path, **changes: Any) -> Any:
    return PHASE.run(EvomergeConfig(**{**QUICK, **changes}), phase_inputs(context, world), context)


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryContext, Any]:
    context = MemoryContext(tmp_path_factory.mktemp("run"), seed=3)
    return context, run(context, world)


def test_contract(finished: tuple[MemoryContext, Any]) -> None:
    context, outputs = finished
    assert isinstance(PHASE, Phase)
    assert set(outputs) == set(PHASE.produces)
    champion = one(outputs, "model")
    model, tokenizer = load_model(context.path(champion))
    assert torch.isfinite(model(torch.tensor([[1, 5, 6]])).logits).all()
    assert len(tokenizer) <= model.config.vocab_size
    assert {"fitness", "merge_technique", "generations", "fitness_curve", "parents", "trunk"} <= set(champion.facts)


def test_figures_and_attachments(finished: tuple[MemoryContext, Any]) -> None:
    context, _ = finished
    for name in (
        "test_gain_over_best_parent", "test_gain_over_best_parent_p_value", "fitness_gain_over_generation_0",
        "generations", "diversity_until_convergence", "random_search_margin", "random_search_p_value", "fitness",
        "domains_won_fraction", "test_gain_over_trunk", "converged", "evaluations", "further_domains_fraction",
    ):  # fmt: skip
        assert f"evomerge/{name}" in context.measured, name
    assert context.measured["evomerge/generations"] == 2
    assert context.measured["evomerge/fitness_gain_over_generation_0"] > 0
    assert "evomerge/halting_inside_parents_range" not in context.measured  # a Llama neither halts nor gates
    assert [row["generation"] for row in context.attachments["fitness"]] == [0, 1, 2]
    table = context.attachments["champion"]["bits_per_byte"]
    assert set(table) == {"champion", "trunk", "parent 0", "parent 1", "parent 2", "best of random search"}
    curves = {name for _, metrics in context.logged for name in metrics}
    assert {"evomerge/best_fitness", "evomerge/diversity", "evomerge/resident_bytes"} <= curves


def test_the_champion_is_measured_on_the_saved_weights(finished: tuple[MemoryContext, Any], world: Path) -> None:
    from agent_forge.evaluation.bits_per_byte import score

    context, outputs = finished
    model, tokenizer = load_model(context.path(one(outputs, "model")))
    corpus = Corpus.open(world / "corpus")
    found = [score(model, tokenizer, corpus.documents(d, "test")[:8], max_length=64) for d in corpus.domains]
    mean = sum(entry.bits_per_byte for entry in found) / len(found)
    assert context.measured["evomerge/test_bits_per_byte"] == pytest.approx(mean, rel=1e-5)


def test_equal_seeds_give_equal_bytes(finished: tuple[MemoryContext, Any], world: Path, tmp_path: Path) -> None:
    again = run(MemoryContext(tmp_path, seed=3), world)
    assert one(again, "model").digest == one(finished[1], "model").digest


@pytest.mark.parametrize("checkpoints", [1, 2, 4])
def test_stopped_and_resumed_gives_the_same_champion(
    checkpoints: int, finished: tuple[MemoryContext, Any], world: Path, tmp_path: Path
) -> None:
    stopped = Stopping(tmp_path, seed=3)
    stopped.after = checkpoints
    with pytest.raises(Interrupted, match="evomerge stopped after step"):
        run(stopped, world)
    stopped.after, stopped.stopping = 10**9, False
    assert one(run(stopped, world), "model").digest == one(finished[1], "model").digest
    measured = {k: v for k, v in stopped.measured.items() if "bytes" not in k}
    assert measured == {k: v for k, v in finished[0].measured.items() if "bytes" not in k}
    steps = [step for step, _ in stopped.logged]
    assert steps == sorted(set(steps))  # nothing is logged twice


def search_of(context: MemoryContext, world: Path, **changes: Any) -> Search:
    inputs = phase_inputs(context, world)
    trunk = one(inputs, "trunk")
    folders = [CheckpointFolder(context.path(parent)) for parent in many(inputs, "specialists")]
    model, tokenizer = context.load_model(trunk)
    return Search(
        EvomergeConfig(**{**QUICK, **changes}), context,
        ParentTensors(CheckpointFolder(context.path(trunk)), folders), model, tokenizer,
        Corpus.open(context.path(one(inputs, "corpus"))),
    )  # fmt: skip


def test_finalists_that_are_compared_on_the_ranking_documents_are_told(world: Path, tmp_path: Path) -> None:
    context = MemoryContext(tmp_path / "plenty", seed=3)
    assert search_of(context, world, selection_documents=1).further_domains_fraction == 1.0
    assert context.warnings == []
    context = MemoryContext(tmp_path / "scarce", seed=3)
    assert search_of(context, world, selection_documents=10_000).further_domains_fraction == 0.0
    [(failure, message, evidence)] = context.warnings
    assert failure == "few documents"
    assert "compared on those that ranked" in message
    assert evidence["domains"] > 1


def test_the_control_may_take_what_evolution_starts_from(world: Path, tmp_path: Path) -> None:
    context = MemoryContext(tmp_path, seed=3)
    search = search_of(context, world, generations=0)
    search.evolve()
    wild = replace(search.trunk, scales=(4.0,) * len(search.trunk.scales))
    search.random = [Individual(wild, search.fitness(wild), 0, "control")]
    _, rival = search.choose()
    starts = max(search.final_fitness(start) for start in search.evolution.anchors)
    assert rival is not None
    assert search.final_fitness(rival) == starts > search.final_fitness(wild)


def test_cma_refines_the_champion(world: Path, tmp_path: Path) -> None:
    context = MemoryContext(tmp_path, seed=3)
    run(context, world, strategy="evolution+cma", refinement_evaluations=12, generations=0, control_fraction=0.0)
    assert context.measured["evomerge/evaluations"] >= 8 + 12
    assert "evomerge/random_search_margin" not in context.measured


def test_deeper_champions_are_saved_as_ordinary_checkpoints(world: Path, tmp_path: Path) -> None:
    context = MemoryContext(tmp_path, seed=1)
    outputs = run(context, world, extra_layers=1, generations=1, control_fraction=0.0)
    champion = one(outputs, "model")
    model, _ = load_model(context.path(champion))
    assert model.config.num_hidden_layers == len(champion.facts["merge_technique"]["path"])


def test_settings_out_of_range() -> None:
    with pytest.raises(ValidationError, match="population"):
        EvomergeConfig(population=3)
    with pytest.raises(ValidationError, match="Extra inputs"):
        EvomergeConfig(generation=3)  # type: ignore[call-arg]

"""Settings of phase 2; imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class FitnessWeights(BaseModel):
    """Weights of the components of fitness; those of components that cannot differ are shared out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quality: float = Field(default=0.4, ge=0, le=1, description="Weight of bits per byte against the best parent.")
    accuracy: float = Field(default=0.3, ge=0, le=1, description="Weight of task accuracy (counts only above chance).")
    speed: float = Field(
        default=0.2, ge=0, le=1, description="Weight of depth as time (counts only with extra_layers)."
    )
    memory: float = Field(
        default=0.1, ge=0, le=1, description="Weight of depth as size (counts only with extra_layers)."
    )


class EvomergeConfig(BaseModel):
    """How specialists are evolved into one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generations: int = Field(50, ge=0, le=500, description="Generations at most, after generation 0.")
    population: int = Field(8, ge=4, le=64, description="Candidates per generation; a quarter of them are elites.")
    patience: int = Field(10, ge=1, description="Generations without gain after which the search has converged.")
    minimum_gain: float = Field(1e-4, ge=0, description="Smallest gain in fitness that counts as one.")
    minimum_diversity: float = Field(
        0.3, ge=0, le=1, description="Mean pairwise distance (1 = random genotypes) below which immigrants come in."
    )
    mutation_rate: float = Field(
        1.0, gt=0, le=5, description="1 moves a third of the genes by about 0.15 of their range."
    )
    layer_groups: int = Field(4, ge=1, le=64, description="Groups of layers with merge weights of their own.")
    extra_layers: int = Field(
        0, ge=0, le=32, description="Layers that data-flow merging may add; 0 keeps the parents' names and shapes."
    )
    strategy: Literal["evolution", "evolution+cma"] = Field(
        "evolution", description="Whether CMA-ES refines the champion's continuous genes at the end."
    )
    refinement_evaluations: int = Field(64, ge=0, description="Candidates of CMA-ES, if the strategy has it.")
    fitness: FitnessWeights = Field(FitnessWeights(), description="Weights of the components.")
    selection_documents: int = Field(24, ge=1, description="Documents per domain of the selection split that rank.")
    final_documents: int = Field(
        48, ge=1, description="Further documents per domain of the selection split that choose among the finalists."
    )
    finalists: int = Field(6, ge=1, le=64, description="Best candidates that are compared on the further documents.")
    test_documents: int | None = Field(None, ge=1, description="Documents per domain for the report; none = all.")
    max_length: int = Field(512, ge=16, description="Tokens that the model sees at once.")
    num_tasks: int = Field(
        0, ge=0, description="Tasks asked of every candidate; 0 because decoding costs more than all the rest."
    )
    task_tokens: int = Field(64, ge=1, description="Tokens of an answer at most.")
    above_chance: float = Field(0.05, ge=0, le=1, description="Accuracy of the best parent from which tasks count.")
    control_fraction: float = Field(
        1.0, ge=0, le=1, description="Random genotypes of the control, as a fraction of evolution's evaluations."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "fp32", description='Arithmetic of selection\'s forward pass; "auto" = bf16 where the hardware is quick at it.'
    )
    memory_fraction: float = Field(0.8, gt=0, le=1, description="Fraction of the memory limit at which to give way.")

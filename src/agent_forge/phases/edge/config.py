"""Configuration of phase 7."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PruningConfig(_Model):
    """What may be cut away, and what that may cost."""

    kinds: tuple[Literal["channels", "heads", "layers"], ...] = Field(
        default=("channels", "heads", "layers"), description="What may be cut; none = nothing is pruned."
    )
    max_points: float = Field(
        default=0.02, ge=0, le=1, description="Share of tool questions or persona choices that a cut may lose."
    )
    max_bits_ratio: float = Field(
        default=1.05, ge=1, description="Largest bits per byte over those before, on the selection split."
    )
    step_fraction: float = Field(default=0.04, gt=0, lt=1, description="Share of the channels in one cut.")
    max_judgements: int = Field(default=4, ge=1, description="Times that tools and persona are tested while cutting.")
    documents: int = Field(
        default=32, ge=1, description="Documents of the training split that importance is read from."
    )
    sequence_length: int = Field(default=128, ge=16, description="Tokens of a window of those.")


class ExpertsConfig(_Model):
    """Skills that may get an expert vector, and how it is trained."""

    skills: tuple[str, ...] = Field(
        default=("thoughts/view", "drills/largest", "thoughts/decompose"),
        description="Candidates: drills/KIND, thoughts/STRATEGY or corpus/DOMAIN; none = no experts.",
    )
    most: int = Field(default=10, ge=1, le=10, description="Experts that are kept at most; 3 to 10 in the design.")
    rank: int = Field(default=64, ge=1, description="Leading singular values of each matrix that an expert scales.")
    levels: tuple[int, ...] = Field(
        default=(1, 2, 3), min_length=1, description="Difficulty of the synthetic skills, each 1-10."
    )
    steps: int = Field(default=60, ge=1, description="Steps of the supervised warm start.")
    batch_size: int = Field(default=6, ge=1, description="Windows in a step of it.")
    sequence_length: int = Field(default=128, ge=16, description="Tokens in a window.")
    learning_rate: float = Field(default=0.1, gt=0, description="Peak of the warm start, in units of the vector.")
    policy_steps: int = Field(default=4, ge=0, description="Steps of REINFORCE after it.")
    policy_questions: int = Field(default=12, ge=1, description="Questions of such a step.")
    policy_samples: int = Field(default=4, ge=2, description="Answers drawn for each question.")
    policy_learning_rate: float = Field(default=0.004, gt=0, description="Of REINFORCE, in units of the vector.")
    divergence_weight: float = Field(
        default=0.05, ge=0, description="Weight of the divergence from the vector after the warm start."
    )
    train_documents: int = Field(default=400, ge=1, description="Worked answers of a skill to learn from.")
    selection_documents: int = Field(default=48, ge=1, description="Examples of a skill that choices are made with.")
    test_documents: int = Field(default=64, ge=1, description="Examples of a skill that figures are measured with.")
    population: int = Field(default=8, ge=4, description="Mixtures in a generation of the search for mixing weights.")
    generations: int = Field(default=3, ge=1, description="Generations of that search.")


class DesignConfig(_Model):
    """The search for a design of the agent."""

    evaluations: int = Field(
        default=40,
        ge=0,
        description="Designs that are tried, those by hand (8) included; the control tries as many; 0 = none.",
    )
    routes: bool = Field(
        default=True,
        description="Whether a design may go about kinds of question differently, by one reading first.",
    )
    population: int = Field(default=16, ge=4, description="Designs in a generation of NSGA-II.")
    probe_questions: int = Field(
        default=16, ge=4, description="Questions of each family that show whether it has head-room (20-80% right)."
    )
    questions: int = Field(default=64, ge=8, description="Questions of the selection split that rank the designs.")
    further_questions: int = Field(default=64, ge=0, description="More of them, to choose among the finalists.")
    test_questions: int = Field(default=128, ge=8, description="Questions of the test split for the verdict.")
    max_samples: int = Field(default=8, ge=1, le=32, description="Most answers that a design may draw and vote on.")
    max_mean_tokens: float | None = Field(
        default=None, gt=0, description="Bound on the decoded tokens of a question for the chosen design; null = none."
    )
    control: bool = Field(default=True, description="Whether random search with as many evaluations runs beside it.")
    answer_tokens: int = Field(default=40, ge=1, description="Tokens of a turn.")


class EdgeConfig(_Model):
    """Pruning, experts, design, export and the machine that it is all for."""

    pruning: PruningConfig = Field(default=PruningConfig(), description="Structured pruning.")
    experts: ExpertsConfig = Field(default=ExpertsConfig(), description="Expert vectors (SVF).")
    design: DesignConfig = Field(default=DesignConfig(), description="Search for the agent's design (ADAS).")
    target: Literal["cpu-x86", "cpu-arm64", "gpu-6gb", "browser"] = Field(
        default="cpu-x86", description="The machine whose bounds on memory, latency and size decide."
    )
    flavour: Literal["cpu", "web"] = Field(default="cpu", description="Form of the ONNX graph in the bundle.")
    bench_tokens: int = Field(default=64, ge=1, description="Tokens that are decoded to measure speed.")
    bench_repeats: int = Field(
        default=5, ge=0, description="Times that it is measured; the median counts. 0 = speed is not measured."
    )
    levels: tuple[int, ...] = Field(
        default=(1, 2, 3), min_length=1, description="Difficulty of the questions about tools and persona, each 1-10."
    )
    selection_questions: int = Field(default=40, ge=4, description="Questions that a cut is judged by.")
    test_questions: int = Field(default=120, ge=4, description="Questions of the test split, asked before and after.")
    bundle_questions: int = Field(
        default=60, ge=0, description="Questions of the test split about tools that bundle and model are both asked."
    )
    answer_tokens: int = Field(default=40, ge=1, description="Tokens of an answer.")
    text_documents: int = Field(default=24, ge=1, description="Documents of each domain for bits per byte.")
    checkpoint_every: int = Field(default=50, ge=1, description="Steps of training between two states to resume from.")

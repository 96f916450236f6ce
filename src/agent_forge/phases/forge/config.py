"""Configuration of phase 5."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ForgePhaseConfig(BaseModel):
    """The curriculum, what disturbs it, and what watches over it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: int = Field(default=10, ge=1, description="Stages; before each the model is assessed anew.")
    stage_steps: int = Field(default=5000, ge=1, description="Training steps of one stage.")
    domains: tuple[str, ...] = Field(
        default=("drills", "arithmetic", "code", "tools"),
        min_length=1,
        description="What is practised: domains of the synthetic world, `drills`, and `corpus` for questions of files.",
    )
    top_level: int = Field(default=10, ge=1, le=10, description="Hardest level, of 1 to 10.")
    sampling: Literal["edge", "one-edge", "uniform"] = Field(
        default="uniform",
        description="Practice of all levels alike, at the edge of each kind of question, or at one edge for all kinds "
        "(the design's; off, because it lost to all levels alike).",
    )
    edge_success: float = Field(default=0.75, gt=0, lt=1, description="Share of right answers that marks the edge.")
    advance_success: float = Field(
        default=0.8, gt=0, le=1, description="Share of right answers from which a level counts as passed."
    )
    easy_fraction: float = Field(default=0.25, ge=0.2, lt=1, description="Share of practice below the edge.")
    hard_fraction: float = Field(default=0.15, ge=0, lt=1, description="Share of practice above the edge.")
    text_fraction: float = Field(
        default=0.25, ge=0, lt=1, description="Share of rows that are ordinary text of the corpus (retention)."
    )
    hold_weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of the divergence from the model that came in, on ordinary text; 0 = off.",
    )
    questions: int = Field(default=4000, ge=1, description="Fresh questions practised in one stage.")
    assessment_questions: int = Field(default=48, ge=1, description="Fresh questions of each level before each stage.")
    answer_tokens: int = Field(default=96, ge=1, description="Tokens of an answer at most.")
    own_answers: int = Field(
        default=0,
        ge=0,
        description="Questions at the edge that the model answers itself before a stage (STaR); 0 = off.",
    )
    own_temperature: float = Field(default=0.8, gt=0, description="Temperature of own answers.")
    own_fraction: float = Field(default=0.2, ge=0, lt=1, description="Share of rows that are own answers, if any.")
    chaos: float = Field(default=0.0, ge=0, le=0.3, description="Chaos at the beginning; never above 0.3.")
    chaos_gain: float = Field(
        default=0.0, ge=0, description="Change of chaos for each unit of surplus success at the edge; 0 = fixed."
    )
    dream_every: int = Field(default=0, ge=0, description="Stages between two dream cycles; 0 = no dreams.")
    dream_questions: int = Field(default=256, ge=1, description="Questions of earlier levels answered in a dream.")
    dream_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Share of a stage's steps that its dream takes (off the stage's own)."
    )
    dream_band: tuple[float, float] = Field(
        default=(1.02, 8.0), description="Perplexity per token of a dream: below, nothing to learn; above, an accident."
    )
    dream_divergence_weight: float = Field(
        default=0.5, ge=0, description="Weight of the divergence from the model before the dream."
    )
    dream_tolerance: float = Field(
        default=0.02, ge=0, le=1, description="Fall of accuracy on earlier levels from which a dream is undone."
    )
    self_modelling_weight: float = Field(
        default=0.0, ge=0, description="Weight of the prediction of the network's own middle layer; 0 = off."
    )
    optimizer: Literal["muon", "adamw"] = Field(default="muon", description="For latent weights; the rest is AdamW.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Peak rate for latent weights.")
    other_learning_rate: float = Field(default=5e-4, gt=0, description="Peak rate for what is in full precision.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled decay per unit of rate.")
    clip_norm: float = Field(default=1.0, ge=0, description="Global norm to which gradients are clipped.")
    grokfast_lambda: float = Field(default=0.0, ge=0, description="Share of the slow gradient that is added; 0 = off.")
    grokfast_alpha: float = Field(default=0.98, ge=0, lt=1, description="Memory of the slow gradient.")
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1, description="Share of the run over which the rate rises.")
    train_embeddings: bool = Field(
        default=True, description="Trains embedding and head too; rows of special tokens stay as they are."
    )
    embedding_bits: Literal[8, 16, 32] = Field(default=8, description="Bits of embedding and head in the packed file.")
    sequence_length: int = Field(default=256, ge=8, description="Tokens in a training window.")
    batch_size: int = Field(default=16, ge=1, description="Windows in a training step.")
    precision: Literal["auto", "bf16", "fp32"] = Field(default="auto", description="Type of the forward passes.")
    loss_variance: float = Field(default=0.5, gt=0, description="Variance of the loss that is divergence, nats².")
    loss_window: int = Field(default=20, ge=5, description="Steps over which losses are judged.")
    checkpoint_every: int = Field(default=5000, ge=1, description="Steps between two stable states to return to.")
    validation_questions: int = Field(
        default=48, ge=1, description="Questions of each level on which forgetting is watched (selection split)."
    )
    test_questions: int = Field(default=128, ge=1, description="Questions of each level for the gates (test split).")
    test_documents: int = Field(default=96, ge=1, description="Documents of each domain of ordinary text (test).")

"""Configuration of phase 6."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class BakingConfig(BaseModel):
    """Which tools and which persona go into the weights, and how much training that takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tools: tuple[Literal["calculator", "lookup", "search", "clock"], ...] = Field(
        default=("calculator", "lookup", "search", "clock"), description="Tools to be baked in."
    )
    persona: str = Field(
        default="",
        description="Prompt of the persona; empty = proposed by the model from its own answers. A small model follows "
        "the form 'You are NAME, the TRADE. You begin every answer with \"…\" and end it with the words …'",
    )
    levels: tuple[int, ...] = Field(
        default=(1, 2, 3, 4, 5), min_length=1, description="Difficulty of the practice questions, each 1-10."
    )
    practice_steps: int = Field(
        default=300,
        ge=0,
        description="Supervised steps on dialogues with prompts, before anything is baked; 0 for a model that follows "
        "prompts already. This is practice, not prompt baking.",
    )
    practice_batch: int = Field(default=8, ge=1, description="Windows in a step of practice.")
    sequence_length: int = Field(default=256, ge=32, description="Tokens in a window of practice.")
    text_fraction: float = Field(
        default=0.25, ge=0, le=0.9, description="Share of ordinary text in practice, so that nothing is forgotten."
    )
    iterations: int = Field(default=4, ge=1, description="Most rounds of the loop, each an A-cycle and a B-cycle.")
    tools_steps: int = Field(default=60, ge=0, description="Steps of an A-cycle, which bakes the list of tools.")
    persona_steps: int = Field(default=60, ge=0, description="Steps of a B-cycle, which bakes the persona.")
    trajectories: int = Field(
        default=256, ge=1, description="Conversations sampled from the prompted teacher for a cycle."
    )
    max_questions: int = Field(default=4, ge=1, description="Most questions of one sampled conversation.")
    temperature: float = Field(default=1.0, ge=0, description="Of the sampling; the paper samples at 2 to explore.")
    batch_size: int = Field(default=16, ge=1, description="Conversations in a step of baking.")
    anchor_batch: int = Field(default=4, ge=0, description="Pieces of ordinary text beside them in a step.")
    anchor_weight: float = Field(
        default=1.0, ge=0, description="Weight of the divergence on ordinary text against that on conversations."
    )
    anchor_tokens: int = Field(default=96, ge=8, description="Tokens of a piece of ordinary text.")
    top_k: int = Field(
        default=32, ge=0, description="Tokens of the teacher's distribution that are kept, and the rest; 0 = all."
    )
    strength: float = Field(
        default=0.5, gt=0, le=1, description="Half-baking: share of a cycle's change of weights that is kept."
    )
    adapter_rank: int = Field(
        default=0, ge=0, description="Rank of LoRA deltas; 0 = the weights themselves (latent ones where ternary)."
    )
    optimizer: Literal["muon", "adamw"] = Field(
        default="muon", description="For matrices of the body; the rest is AdamW."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(default="auto", description="Type of training's forward passes.")
    learning_rate: float = Field(default=4e-3, gt=0, description="Peak rate of practice.")
    baking_learning_rate: float = Field(default=2e-3, gt=0, description="Peak rate of baking and recovery.")
    recovery_steps: int = Field(
        default=20,
        ge=0,
        description="Steps that bake both prompts together, at full strength, before the weights are rounded for good.",
    )
    window: int = Field(default=3, ge=1, description="Rounds without gain after which the loop stops.")
    minimum_gain: float = Field(default=0.01, ge=0, description="Relative gain of the score that counts.")
    kept_checkpoints: int = Field(default=5, ge=1, description="Best states of the loop that are kept.")
    target: float = Field(
        default=0.95, gt=0, le=1, description="Tools and persona at which the loop has succeeded and stops."
    )
    min_tool_accuracy: float = Field(
        default=0.5, ge=0, le=1, description="A tool whose questions are answered right less often is dropped."
    )
    max_tool_harm: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="A tool that is called for more than this share of the questions that are not for it is dropped.",
    )
    selection_questions: int = Field(default=60, ge=4, description="Questions for the loop's scores (selection split).")
    test_questions: int = Field(default=200, ge=8, description="Questions for the gates (test split).")
    stability_conversations: int = Field(default=24, ge=1, description="Conversations of ten turns for the gates.")
    answer_tokens: int = Field(default=40, ge=4, description="Tokens of a turn of the model at most.")
    text_documents: int = Field(
        default=48, ge=1, description="Documents of each domain that ordinary text is judged by."
    )
    checkpoint_every: int = Field(default=50, ge=1, description="Steps between two states to resume from.")

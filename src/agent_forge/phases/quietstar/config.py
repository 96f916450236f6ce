"""Configuration of phase 3."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agent_forge.data.practice import STRATEGIES


class QuietstarConfig(BaseModel):
    """How a model learns to think, and how it is shown that its thoughts do something."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategies: tuple[str, ...] = Field(
        default=STRATEGIES, min_length=1, description="Ways to think that are practised; see data/practice.py."
    )
    levels: tuple[int, ...] = Field(
        default=(1, 2, 3), min_length=1, description="Difficulties (1 to 10) of the practice, in turn."
    )
    practice_items: int = Field(default=20_000, ge=8, description="Different worked thoughts to train on.")
    direct_fraction: float = Field(
        default=0.15,
        ge=0,
        lt=1,
        description="Share of the practice that is answered without a thought, so that `off` is practised too.",
    )
    filler_fraction: float = Field(
        default=0.15,
        ge=0,
        lt=1,
        description="Share of the practice whose thought is filler of equal length: the control is practised too.",
    )
    ordinary_fraction: float = Field(
        default=0.4, gt=0, lt=1, description="Share of a batch that is ordinary text, held by the KL."
    )
    habit_steps: int = Field(default=2000, ge=1, description="Steps of supervised practice.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Peak rate of matrices while practising (Muon).")
    other_learning_rate: float = Field(default=1e-3, gt=0, description="Peak rate of everything else (AdamW).")
    hold_weight: float = Field(
        default=1.0, ge=0, description="Weight of KL(before ‖ now) on ordinary text while practising."
    )
    sequence_length: int = Field(default=256, ge=8, description="Tokens in a window.")
    batch_size: int = Field(default=16, ge=2, description="Windows in a step.")
    quiet_steps: int = Field(
        default=500, ge=0, description="Steps of Quiet-STaR on ordinary text after the practice; 0 = none."
    )
    quiet_learning_rate: float = Field(default=1e-4, gt=0, description="Rate of matrices in these steps.")
    mark_learning_rate: float = Field(
        default=1e-3, gt=0, description="Rate of the embeddings of the two marks in these steps."
    )
    quiet_batch_size: int = Field(default=4, ge=1, description="Texts in such a step.")
    quiet_length: int = Field(default=128, ge=4, description="Tokens of such a text.")
    places: int = Field(default=0, ge=0, description="Positions of a text that think; 0 = every one (the paper).")
    thought_length: int = Field(default=12, ge=1, description="Tokens of a sampled thought.")
    talk_tokens: int = Field(default=4, ge=1, description="Tokens predicted after a sampled thought.")
    samples: int = Field(default=2, ge=2, description="Thoughts of each position; their mean is the baseline.")
    temperature: float = Field(default=1.0, gt=0, description="Of the sampling of thoughts while training.")
    policy_weight: float = Field(default=0.1, ge=0, description="Weight of the policy gradient.")
    divergence_weight: float = Field(default=0.1, ge=0, description="Weight of KL(before ‖ now) in these steps.")
    grokfast_lambda: float = Field(default=0.1, ge=0, description="How much of the slow gradient is added; 0 = off.")
    max_divergence: float = Field(default=0.2, gt=0, description="KL in nats a token beyond which it is rolled back.")
    min_gain: float = Field(default=-0.1, lt=0, description="Nats a token that thoughts may cost before a roll-back.")
    min_entropy: float = Field(default=0.05, ge=0, description="Nats of a thought token, at least.")
    watch_window: int = Field(default=10, ge=1, description="Steps over which these three are averaged.")
    thought_budget: int = Field(default=96, ge=1, description="Tokens of a thought at most, when answering.")
    answer_tokens: int = Field(default=16, ge=1, description="Tokens of an answer at most.")
    coherence_bound: float = Field(
        default=0.7, ge=0, le=1, description="Thoughts below this coherence are not injected; the question is answered."
    )
    test_tasks: int = Field(default=700, ge=4, description="Questions of the test split for the gates.")
    test_documents: int = Field(default=256, ge=1, description="Documents of each domain for the gates (test split).")
    precision: Literal["auto", "bf16", "fp32"] = Field(default="auto", description="Type of the forward passes.")
    checkpoint_every: int = Field(default=100, ge=1, description="Steps between two states to resume from.")

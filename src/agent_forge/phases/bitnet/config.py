"""Configuration of phase 4."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class BitnetConfig(BaseModel):
    """How a model becomes ternary, and how much training is spent to win back what that costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group_size: int = Field(
        default=0,
        ge=-1,
        description="Input columns that share a scale; 0 = per tensor (the paper, and all that hf-bitnet can hold), "
        "-1 = per row (all that GGUF can hold), else columns.",
    )
    finer_group_size: int = Field(
        default=-1, ge=-1, description="Columns that share a scale in layers whose output error is above finer_above."
    )
    finer_above: float = Field(
        default=0.4, gt=0, le=1, description="Relative output error above which a layer gets the finer groups."
    )
    activation_bits: Literal[0, 8] = Field(
        default=8, description="Bits of activations, absmax per token; 0 = not rounded."
    )
    embedding_bits: Literal[8, 16, 32] = Field(
        default=8,
        description="Bits of embedding, head and gates in the packed file; special rows always stay as they are.",
    )
    calibration_samples: int = Field(
        default=512, ge=1, description="Windows of the training split to measure layers on."
    )
    stages: int = Field(
        default=4, ge=1, description="Runs of layers, robust ones first, that become ternary one after another."
    )
    stage_steps: int = Field(default=50, ge=1, description="Training steps of one stage.")
    stage_warmup_fraction: float = Field(
        default=0.6, ge=0, le=1, description="Share of a stage over which the blend rises from 0 to 1."
    )
    stage_bound: float = Field(
        default=2.0,
        gt=1,
        description="Largest perplexity ratio on the selection split after a stage; beyond it, it is undone.",
    )
    stage_attempts: int = Field(
        default=6, ge=2, description="Tries of a stage, each with higher precision, before its layers stay in fp16."
    )
    recovery_steps: int = Field(default=500, ge=0, description="Training steps after the last stage.")
    optimizer: Literal["muon", "adamw"] = Field(
        default="muon", description="For latent weights; the rest is always AdamW."
    )
    learning_rate: float = Field(
        default=2e-3, gt=0, description="Peak rate for latent weights (ours is higher than for full precision)."
    )
    other_learning_rate: float = Field(
        default=5e-4, gt=0, description="Peak rate for everything that stays in full precision."
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="Decoupled decay per unit of rate (ours: ternary needs none)."
    )
    cross_entropy_weight: float = Field(default=0.2, ge=0, description="Weight of the loss against the text, in nats.")
    divergence_weight: float = Field(
        default=0.8, ge=0, description="Weight of the divergence from the teacher's logits."
    )
    relation_weight: float = Field(default=0.1, ge=0, description="Weight of the divergence of token relations.")
    temperature: float = Field(default=1.0, gt=0, description="Temperature of the divergence of the logits.")
    train_embeddings: bool = Field(
        default=False, description="Trains embedding and head too; special rows stay as they are."
    )
    sequence_length: int = Field(default=256, ge=8, description="Tokens in a training window.")
    batch_size: int = Field(default=16, ge=1, description="Windows in a training step.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="Type of the training forward passes."
    )
    checkpoint_every: int = Field(default=100, ge=1, description="Recovery steps between two states to resume from.")
    validation_documents: int = Field(
        default=64, ge=1, description="Documents of each domain for validation (selection split)."
    )
    test_documents: int = Field(default=256, ge=1, description="Documents of each domain for the gates (test split).")

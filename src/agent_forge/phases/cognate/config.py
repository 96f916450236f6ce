"""Configuration of phase 1."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]


class ModelShape(BaseModel):
    """Shape and switches of the Cognate model; see `agent_forge.model.CognateConfig`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(8192, ge=261, le=65536, description="Tokens of the byte-level vocabulary, at most.")
    hidden_size: int = Field(512, ge=8, description="Width of the residual stream.")
    num_hidden_layers: int = Field(8, ge=1, description="Blocks.")
    num_attention_heads: int = Field(8, ge=1, description="Query heads.")
    num_key_value_heads: int | None = Field(None, ge=1, description="Key heads; None = one per query head.")
    intermediate_size: int = Field(
        1008, ge=8, description="Width of the SwiGLU (1008: 25.0M parameters with the rest)."
    )
    sliding_window: int = Field(1024, ge=1, description="Tokens that attention sees.")
    global_every: int = Field(16, ge=0, description="Every so many tokens one stays visible for ever; 0 = none.")
    max_position_embeddings: int = Field(2048, ge=2, description="Longest sequence in tokens.")
    qk_norm: bool = Field(True, description="RMSNorm on queries and keys (ours: on; a lead, see docs/log.md).")
    memory: Literal["off", "ema", "titans"] = Field(
        "off", description="Long-term memory (ours: off, no gain shown yet)."
    )
    memory_size: int = Field(256, ge=1, description="Width of the memory.")
    memory_heads: int = Field(4, ge=1, description="Heads of the titans memory.")
    memory_chunk: int = Field(64, ge=1, description="Tokens after which the titans memory is written.")
    gate: bool = Field(True, description="MAG gate between attention and memory, where there is a memory.")
    gate_size: int = Field(256, ge=1, description="Hidden width of the gate.")
    short_convolution: int = Field(0, ge=0, description="Taps of the causal convolutions; 0 = off.")
    recursion_steps: int = Field(0, ge=0, le=6, description="Predictions per token (ours: 0, no gain shown yet).")
    micro_steps: int = Field(2, ge=1, description="Refinements of the latent in one step.")
    recursion_intermediate_size: int | None = Field(None, ge=8, description="Width of the shared block's SwiGLU.")
    recursion_detach: bool = Field(True, description="No gradient flows between steps.")
    act: bool = Field(False, description="Halting head per position; needs recursion.")
    halting_threshold: float = Field(0.5, gt=0, lt=1, description="Halting probability above which a token stops.")
    value_residual: bool = Field(False, description="Later layers mix in the first layer's values.")
    zero_init_output: bool = Field(True, description="Blocks start as the identity.")
    logit_soft_cap: float = Field(0.0, ge=0, description="Bound of the logits; 0 = none.")


class LengthStage(BaseModel):
    """One stage of the length curriculum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: Fraction = Field(description="Share of the trunk's steps after which the stage begins.")
    tokens: int = Field(ge=16, description="Tokens of a window in this stage.")


class CognatePhaseConfig(BaseModel):
    """How a corpus becomes a trunk and three specialists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelShape = Field(
        default_factory=lambda: ModelShape.model_validate({}), description="Shape and switches of the model."
    )
    parameters: int | None = Field(None, ge=1, description="Parameters that the model must have within 1%; None = any.")

    steps: int = Field(10_000, ge=1, description="Training steps of trunk and branches together.")
    batch_tokens: int = Field(8192, ge=16, description="Tokens of a training step.")
    micro_batch_tokens: int = Field(0, ge=0, description="Tokens of one forward pass; 0 = the whole batch.")
    lengths: tuple[LengthStage, ...] = Field(
        tuple(LengthStage(start=start, tokens=tokens) for start, tokens in ((0.0, 512), (0.6, 1024), (0.9, 2048))),
        min_length=1,
        description="Length curriculum of the trunk; branches train at its last length.",
    )
    specialize_from: Literal["trunk", "scratch"] = Field(
        "trunk", description="Branches grow from the trunk, or (ablation only) from their own initialisation."
    )
    trunk_fraction: float = Field(0.7, gt=0, lt=1, description="Share of the steps that the trunk takes.")
    specialty_weight: Fraction = Field(
        0.6, description="Share of a branch's data that comes from its specialty; the rest is the whole mixture."
    )
    specialty_seeds: tuple[int, int, int] = Field(
        (42, 1337, 2023), description="Seeds of reasoning, memory_integration and adaptive_computation."
    )

    learning_rate: float = Field(6e-3, gt=0, description="Peak rate of Muon (root mean square of AdamW's update).")
    adamw_learning_rate: float = Field(6e-3, gt=0, description="Peak rate of embeddings, norms and gains.")
    weight_decay: float = Field(0.05, ge=0, description="Decoupled decay per unit of rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of Muon.")
    orthogonalization: Literal["newton_schulz", "svd"] = Field("newton_schulz", description="How Muon orthogonalises.")
    orthogonalization_steps: int = Field(5, ge=1, le=12, description="Steps of Newton-Schulz (the specification: 3).")
    clip_norm: float = Field(1.0, ge=0, description="Global norm of raw gradients; 0 = no clipping.")
    grokfast_lambda: float = Field(
        0.0, ge=0, le=5, description="Share of the slow gradient added (ours: 0; with 0.3 no gain was shown)."
    )
    grokfast_alpha: float = Field(0.98, ge=0, lt=1, description="Memory of the slow gradient.")
    qk_clip_threshold: float = Field(30.0, gt=0, description="Largest attention logit; only without QK-norm.")
    qk_clip_every: int = Field(20, ge=1, description="Steps between two measurements for QK-clip.")
    schedule: Literal["constant", "cosine", "wsd"] = Field("wsd", description="Learning-rate schedule of the trunk.")
    warmup_fraction: float = Field(0.03, ge=0, lt=1, description="Share of the trunk's steps to warm up.")
    decay_fraction: Fraction = Field(0.6, description="Share of the trunk's steps, at its end, of linear decay.")
    trunk_final_rate: Fraction = Field(0.1, description="Rate at the end of the trunk, as a share of the peak.")
    branch_rate: Fraction = Field(0.3, description="Peak rate of a branch, as a share of the trunk's; decays to 0.")

    next_token_weight: float = Field(1.0, gt=0, description="Weight of the next-token loss (specification: 0.7).")
    coherence_weight: float = Field(
        0.0, ge=0, description="Weight of sequence coherence (ours: 0; specification: 0.2)."
    )
    diversity_weight: float = Field(0.0, ge=0, description="Weight of the variance-covariance penalty (spec: 0.1).")
    segment_tokens: int = Field(64, ge=4, description="Tokens of a segment that coherence and diversity pool.")
    halting_weight: float = Field(0.1, ge=0, description="Weight of the halting head's loss.")
    gate_entropy_weight: float = Field(0.001, ge=0, description="Weight of the gate's entropy, which is raised.")
    attention_entropy_weight: float = Field(
        0.0, ge=0, description="Weight of attention entropy, raised (0.01 if used)."
    )
    step_weights: tuple[float, ...] = Field(
        (0.5, 0.75, 1.0), min_length=1, description="Deep supervision: weight of each step; the last one repeats."
    )
    supervised_fraction: float = Field(
        0.25, gt=0, le=1, description="Share of positions on which steps before the last are supervised."
    )
    halting_epsilon: float = Field(0.05, ge=0, description="Gain in nats below which the next step is not worth it.")
    halting_warmup_fraction: Fraction = Field(0.1, description="Share of the run without halting targets.")

    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Type of autocast; auto asks the device.")
    average_decay: float = Field(0.99, ge=0, lt=1, description="Memory of the averaged weights, per step; 0 = off.")
    checkpoint_every: int = Field(1000, ge=1, description="Steps between two states to resume from.")
    log_every: int = Field(10, ge=1, description="Steps between two rows of metrics.")
    validate_every: int = Field(500, ge=1, description="Steps between two validations on the selection split.")
    validation_documents: int = Field(24, ge=1, description="Documents of each domain for validation.")
    test_documents: int = Field(256, ge=1, description="Documents of each domain for the figures that gates read.")
    probe_every: int = Field(500, ge=1, description="Steps between two looks into attention and the optimizer.")
    max_restores: int = Field(5, ge=0, description="Returns to the last good state before the phase gives up.")

    @model_validator(mode="after")
    def _fits(self) -> CognatePhaseConfig:
        starts = [stage.start for stage in self.lengths]
        if starts[0] != 0 or starts != sorted(starts):
            raise ValueError(f"lengths must start at 0 and rise, got starts {starts}")
        longest = max(stage.tokens for stage in self.lengths)
        if longest > self.batch_tokens:
            raise ValueError(f"a window of {longest} tokens does not fit into batch_tokens {self.batch_tokens}")
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(f"warm-up {self.warmup_fraction} and decay {self.decay_fraction} exceed the run")
        return self

"""Settings of phase 8."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class CompressionConfig(BaseModel):
    """How small, how good, and how much work may be spent on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bits_per_byte_increase_fraction: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Bound of the allocation: bits per byte may rise by this fraction of the input's.",
    )
    min_retention_fraction: float = Field(
        default=0.95, ge=0, le=1, description="Retention below which a stage is rolled back, against the phase's input."
    )
    max_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Wanted size of the whole file in bytes; a larger one is accepted if quality needs it.",
    )
    codecs: tuple[str, ...] = Field(
        default=("plain", "ternary", "uniform", "seedlm", "hyper", "gptq", "vptq"),
        description="Codecs that may be chosen; the lossless floor is always there.",
    )
    forced: dict[str, str] = Field(
        default_factory=dict,
        description="Role (embedding, linear, …) → option (codec/rate) it gets; the gates still hold.",
    )
    calibration_documents: int = Field(
        default=24, ge=1, le=4096, description="Documents of the training split for gradients and Hessians."
    )
    evaluation_documents: int = Field(
        default=24,
        ge=1,
        le=100_000,
        description="Documents a domain of the selection and of the test split that are scored.",
    )
    max_length: int = Field(
        default=256, ge=8, le=8192, description="Tokens that the model sees at once while measuring."
    )
    small_tensor_weights: int = Field(
        default=2048, ge=0, description="Tensors of at most so many weights are stored as they are or in fp16."
    )
    seedlm_max_weights: int = Field(
        default=4_000_000, ge=0, description="SeedLM is skipped on larger tensors (about 30 µs per 8 weights and core)."
    )
    max_allocation_rounds: int = Field(
        default=5, ge=1, le=20, description="Times that the predicted loss is corrected by a measurement."
    )
    num_tasks: int = Field(20, ge=0, description="Questions per domain that the finished agent is asked; 0 = none.")
    task_tokens: int = Field(128, ge=1, description="Tokens of an answer at most.")
    ability_questions: int = Field(
        default=400,
        ge=0,
        description="Questions about tools that the file is asked beside the phase's input; 0 = none.",
    )
    persona_questions: int = Field(default=100, ge=4, description="Choices between answers for its persona.")
    ability_levels: tuple[int, ...] = Field(
        default=(1, 2, 3), min_length=1, description="Difficulty of the questions about tools and persona, each 1-10."
    )
    answer_tokens: int = Field(default=40, ge=1, description="Tokens of an answer to those.")
    ladder: bool = Field(
        default=True, description="Also measure the usual formats, for the size–quality table of the report."
    )

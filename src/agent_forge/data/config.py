"""Configuration of the data step: where text comes from and what is left out."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field


class DataConfig(BaseModel):
    """Sources, filters and the size of the synthetic world."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[str, ...] = Field(
        default=("synthetic",),
        min_length=1,
        description="Text to learn from, each `[domain=]path[:weight]`, `hub:owner/name` or `synthetic`.",
    )
    eval_sources: tuple[str, ...] = Field(
        default=(), description="Held-out text, each a test set of its own that is only reported on."
    )
    mixture: Mapping[str, float] = Field(
        default_factory=dict, description="Weights by domain that override those of the sources; any scale."
    )
    synthetic_bytes: int = Field(
        default=6_000_000, ge=50_000, le=2_000_000_000, description="Size in bytes of the synthetic world for training."
    )
    levels: tuple[int, ...] = Field(
        default=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
        min_length=1,
        description="Difficulties of the synthetic world, of 1 to 10.",
    )
    tool_share: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="Share of conversations with tools, from the synthetic world, that are added to other text; "
        "baking needs them, as a model that never read a call learns none late.",
    )
    min_bytes: int = Field(
        default=64,
        ge=0,
        description="Shorter documents are dropped; 64 bytes, as the specified 128 tokens would drop most questions.",
    )
    max_bytes: int = Field(default=8192, ge=256, description="Longer documents are cut into pieces of this many bytes.")
    min_quality: float = Field(
        default=0.7, ge=0.0, le=1.0, description="Documents of a lower quality score are dropped; 0 switches it off."
    )
    near_duplicates: bool = Field(default=True, description="Whether near-duplicates of earlier documents are dropped.")

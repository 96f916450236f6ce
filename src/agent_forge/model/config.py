"""The configuration of Cognate: every part can be switched off, and then costs nothing.

Registered as ``model_type: cognate``. This module imports no torch of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class CognateConfig(PreTrainedConfig):
    """Shape and switches of a Cognate model.

    Attributes:
        vocab_size: rows of the embedding (tied with the head by default).
        hidden_size: width of the residual stream.
        num_hidden_layers: blocks.
        num_attention_heads: query heads; ``hidden_size`` is divisible by it unless ``head_dim`` is given.
        num_key_value_heads: key and value heads; None = as many as query heads.
        head_dim: channels of a head; None = ``hidden_size`` shared out among the heads (all but pruned models).
        intermediate_size: width of the SwiGLU.
        sliding_window: a token sees itself and the ``sliding_window - 1`` tokens before it.
        global_every: tokens at positions divisible by this stay visible for ever; 0 = none.
        max_position_embeddings: longest sequence that training used (rotary positions know no bound).
        rope_theta: base of the rotary frequencies.
        rms_norm_eps: added to the mean square inside every RMSNorm.
        initializer_range: standard deviation of initial weights.
        qk_norm: RMSNorm with a learned gain on queries and keys of each head.
        memory: long-term memory beside attention: "off", "ema" or "titans".
        memory_size: width of the memory of a layer.
        memory_heads: heads of the titans memory; ``memory_size`` is divisible by it.
        memory_chunk: tokens after which the titans memory is written (a token reads closed chunks only).
        memory_every: only every n-th block has a memory, counted from the last.
        gate: MAG gate between attention and memory (needs a memory; else they are added).
        gate_size: hidden width of the gate.
        short_convolution: width of the depthwise causal convolution before attention and before the
            SwiGLU; 0 = off.
        recursion_steps: predictions per token: 1 is the backbone's own, each further one refines it
            through the shared block; 0 or 1 = recursion off.
        micro_steps: refinements of the latent z within one step.
        recursion_intermediate_size: width of the SwiGLU of the shared block; None = ``intermediate_size``.
        recursion_detach: no gradient flows from a step into the states of the step before.
        act: halting head per position (needs recursion).
        halting_threshold: a position halts when its probability exceeds this (0-1).
        stateless_mode: halting is a pure function of the input. False: inference shifts the halting
            logits by the calibration that training recorded.
        value_residual: values of later layers are mixed with those of the first layer.
        zero_init_output: output projections start at zero, so that every block starts as the identity.
        logit_soft_cap: logits are bounded by c·tanh(logits / c); 0 = off.
    """

    model_type: ClassVar[str] = "cognate"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "statistics"]

    vocab_size: int = 8192
    hidden_size: int = 512
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int = 1024
    sliding_window: int = 1024
    global_every: int = 16
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    qk_norm: bool = True
    memory: str = "off"
    memory_size: int = 256
    memory_heads: int = 4
    memory_chunk: int = 64
    memory_every: int = 1
    gate: bool = True
    gate_size: int = 256
    short_convolution: int = 0
    recursion_steps: int = 0
    micro_steps: int = 2
    recursion_intermediate_size: int | None = None
    recursion_detach: bool = True
    act: bool = False
    halting_threshold: float = 0.5
    stateless_mode: bool = True
    value_residual: bool = False
    zero_init_output: bool = True
    logit_soft_cap: float = 0.0
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self, **kwargs: Any) -> None:
        """Fills the widths that follow from others."""
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.recursion_intermediate_size is None:
            self.recursion_intermediate_size = self.intermediate_size
        super().__post_init__(**kwargs)

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def has_memory(self, index: int) -> bool:
        """True when block ``index`` has a memory: counted from the end, so that the last block has one."""
        return self.memory != "off" and (self.num_hidden_layers - 1 - index) % self.memory_every == 0

    @property
    def has_recursion(self) -> bool:
        """True when a token may get more than the backbone's own prediction."""
        return self.recursion_steps >= 2

    @property
    def has_halting(self) -> bool:
        """True when a halting head decides how many steps a position gets."""
        return self.act and self.has_recursion

    @property
    def has_gate(self) -> bool:
        """True when attention and memory are mixed by the MAG gate."""
        return self.gate and self.memory != "off"

    def validate_architecture(self) -> None:
        """Raises ValueError, with the values, for shapes and switches that cannot be (run by `strict`)."""
        heads, pairs = self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads
        if self.head_dim is not None and (self.head_dim < 2 or self.head_dim % 2):
            raise ValueError(f"head_dim is {self.head_dim}, expected an even number")
        if self.head_dim is None and (self.hidden_size % heads or (self.hidden_size // heads) % 2):
            raise ValueError(f"hidden_size {self.hidden_size} must split into {heads} heads of an even width")
        if heads % pairs:
            raise ValueError(f"{heads} query heads cannot share {pairs} key heads evenly")
        if self.memory not in ("off", "ema", "titans"):
            raise ValueError(f'memory is {self.memory!r}, expected "off", "ema" or "titans"')
        if self.memory == "titans" and self.memory_size % self.memory_heads:
            raise ValueError(f"memory_size {self.memory_size} must split into {self.memory_heads} memory heads")
        if self.act and self.recursion_steps < 2:
            raise ValueError(f"act needs recursion_steps of at least 2, got {self.recursion_steps}")
        if not 0.0 < self.halting_threshold < 1.0:
            raise ValueError(f"halting_threshold is {self.halting_threshold}, expected between 0 and 1")
        positive = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "sliding_window",
                    "memory_size", "memory_chunk", "memory_every", "gate_size", "micro_steps")  # fmt: skip
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("global_every", "short_convolution", "recursion_steps", "logit_soft_cap"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")

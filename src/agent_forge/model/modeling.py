"""Cognate, a causal language model for `transformers`.

The order of a block: norm → short convolution → attention (and memory, mixed by the gate) → residual;
norm → short convolution → SwiGLU → residual. After the blocks, where it is on, the recursion refines the
features and a halting head decides how many refinements a position gets. Every part that the
configuration switches off has no module, no parameter and no branch at work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from agent_forge.model.attention import (
    Attention,
    TokenLayout,
    Visibility,
    attend,
    document_positions,
    rotary_table,
)
from agent_forge.model.cache import CognateCache
from agent_forge.model.config import CognateConfig
from agent_forge.model.convolution import Crossings, ShortConvolution
from agent_forge.model.gate import MemoryGate, gate_statistics
from agent_forge.model.memory import EmaMemory
from agent_forge.model.norm import RMSNorm, compute_dtype


@dataclass
class CognateOutput(CausalLMOutputWithPast):
    """What ``forward`` gives, beyond the usual fields.

    Attributes:
        hidden: [B, T, hidden] features after the final norm, that the head reads.
        step_hidden: the same after each step of the recursion, the backbone's own first.
        halting_logits: [B, T] for each of these steps.
        statistics: figures by name, 0-d tensors that carry gradients.
    """

    hidden: Tensor | None = None
    step_hidden: tuple[Tensor, ...] | None = None
    halting_logits: tuple[Tensor, ...] | None = None
    statistics: dict[str, Tensor] | None = None


@dataclass
class Features:
    """What `CognateForCausalLM.features` gives to a training loop.

    Attributes:
        steps: [B, T, hidden] after the final norm, for each step; one where recursion is off.
        halting_logits: [B, T] for each step; empty where ACT is off.
        statistics: figures by name; empty unless asked for.
        past_key_values: the cache, if one was given.
        layout: where the tokens stand.
    """

    steps: list[Tensor]
    halting_logits: list[Tensor]
    statistics: dict[str, Tensor]
    past_key_values: CognateCache | None
    layout: TokenLayout


@dataclass
class Pass:
    """What all blocks of one forward pass share."""

    layout: TokenLayout
    table: tuple[Tensor, Tensor]
    visibility: Visibility
    crossings: Crossings
    cache: CognateCache | None
    watch: bool = False
    gates: list[dict[str, Tensor]] = field(default_factory=list)

    def states(self, slot: int) -> dict[str, Any] | None:
        """Small states of a cache slot; None without a cache."""
        return None if self.cache is None else self.cache.layers[slot].states  # type: ignore[union-attr]

    def remember(self, slot: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a slot, these ones last."""
        return (key, value) if self.cache is None else self.cache.layers[slot].update(key, value)  # type: ignore[return-value]


class SwiGLU(nn.Module):
    """down(silu(gate(x)) ⊙ up(x)); Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.down_proj.starts_as = "output"  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, hidden] → the same."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class CognateBlock(GradientCheckpointingLayer):
    """One layer: attention with its memory, then the SwiGLU."""

    def __init__(self, config: CognateConfig, index: int) -> None:
        super().__init__()
        size, width = config.hidden_size, config.short_convolution
        self.index = index
        self.attention_norm = RMSNorm(size, config.rms_norm_eps)
        self.attention_conv = ShortConvolution(size, width) if width else None
        self.attention = Attention(
            size,
            config.num_attention_heads,
            int(config.num_key_value_heads or config.num_attention_heads),
            qk_norm=config.qk_norm,
            value_residual=config.value_residual and index > 0,
            eps=config.rms_norm_eps,
        )
        self.memory = make_memory(config)
        self.gate = MemoryGate(size, config.gate_size) if config.has_gate else None
        self.mlp_norm = RMSNorm(size, config.rms_norm_eps)
        self.mlp_conv = ShortConvolution(size, width) if width else None
        self.mlp = SwiGLU(size, config.intermediate_size)

    def forward(self, x: Tensor, shared: Pass, first_values: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gives the stream [B, T, hidden] and this layer's values (for the value residual)."""
        states = shared.states(self.index)
        h = self.attention_norm(x)
        if self.attention_conv is not None:
            h = self.attention_conv(h, shared.crossings, states, "attention_conv")
        values = self.attention.values(h, first_values)
        key, value = shared.remember(self.index, self.attention.keys(h, shared.table), values)
        mixed = self.attention.output(attend(self.attention.queries(h, shared.table), key, value, shared.visibility))
        if self.memory is not None:
            mixed = self._with_memory(mixed, h, shared, states)
        x = x + mixed
        h = self.mlp_norm(x)
        if self.mlp_conv is not None:
            h = self.mlp_conv(h, shared.crossings, states, "mlp_conv")
        return x + self.mlp(h), values

    def _with_memory(self, attended: Tensor, h: Tensor, shared: Pass, states: dict[str, Any] | None) -> Tensor:
        assert self.memory is not None
        remembered = self.memory(h, shared.layout, states)
        if self.gate is None:
            return attended + remembered
        mixed, gate = self.gate(attended, remembered)
        if shared.watch:
            shared.gates.append(gate_statistics(gate, shared.layout.valid))
        return mixed


def make_memory(config: CognateConfig) -> nn.Module | None:
    """The memory that the configuration names, or None."""
    if config.memory == "off":
        return None
    return EmaMemory(config.hidden_size, config.memory_size)


class CognatePreTrainedModel(PreTrainedModel):
    """Initial values of every parameter: those that loading does not find in a file are set by this."""

    config: CognateConfig
    config_class = CognateConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CognateBlock"]  # noqa: RUF012 (transformers' own convention)
    _supports_sdpa = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        config = self.config
        if isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, ShortConvolution):
            init.zeros_(module.weight)
            if not getattr(module.weight, "_is_hf_initialized", False):
                module.weight[:, 0] = 1.0
        elif isinstance(module, Attention) and module.value_mix is not None:
            if not getattr(module.value_mix, "_is_hf_initialized", False):
                module.value_mix.copy_(torch.tensor([1.0, 0.0]))
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=config.initializer_range)
        elif isinstance(module, nn.Linear):
            self._init_linear(module, getattr(module, "starts_as", "inner"))

    def _init_linear(self, module: nn.Linear, kind: str) -> None:
        """``kind``: inner; output (back to the stream); zero (a silent branch)."""
        std = self.config.initializer_range
        if kind == "zero" or (kind == "output" and self.config.zero_init_output):
            init.zeros_(module.weight)
        else:
            init.normal_(
                module.weight, std=std / (2 * self.config.num_hidden_layers) ** 0.5 if kind == "output" else std
            )
        if module.bias is not None:
            init.constant_(module.bias, getattr(module, "bias_starts_at", 0.0))


class CognateModel(CognatePreTrainedModel):
    """Embedding, blocks and final norm."""

    def __init__(self, config: CognateConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([CognateBlock(config, index) for index in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def layout(
        self,
        inputs: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        document_ids: Tensor | None,
        cache: CognateCache | None,
    ) -> TokenLayout:
        """Where the tokens of this pass stand; ``inputs`` [B, T, ...] gives shape and device."""
        length = inputs.shape[1]
        valid: Tensor | None = None
        if document_ids is not None:
            valid = document_ids >= 0
        if attention_mask is not None:
            if attention_mask.dim() != 2:
                raise ValueError(f"attention_mask has {attention_mask.dim()} axes, expected [batch, tokens]")
            present = attention_mask[:, -length:].bool()
            valid = present if valid is None else valid & present
        if valid is not None and bool(valid.all()):
            valid = None
        if position_ids is None:
            start = 0 if cache is None else cache.next_position()
            if document_ids is not None:
                position_ids = document_positions(document_ids)
            elif valid is not None:
                position_ids = (valid.long().cumsum(-1) - 1 + start).clamp(min=0)
            else:
                position_ids = torch.arange(length, device=inputs.device)[None] + start
        return TokenLayout(position_ids, document_ids, valid)

    def begin(self, layout: TokenLayout, x: Tensor, cache: CognateCache | None, watch: bool) -> Pass:
        """Everything that the blocks share."""
        config = self.config
        keys = layout if cache is None else cache.extend(layout)
        return Pass(
            layout=layout,
            table=rotary_table(layout.positions, config.head_size, config.rope_theta, compute_dtype(x)),
            visibility=Visibility(layout, keys, config.sliding_window, config.global_every),
            crossings=Crossings(layout, config.short_convolution),
            cache=cache,
            watch=watch,
        )

    def forward(self, x: Tensor, shared: Pass) -> Tensor:
        """Runs the blocks over embeddings ``x`` [B, T, hidden]; gives the stream before the final norm."""
        first: Tensor | None = None
        for block in self.layers:
            x, values = block(x, shared, first)
            if first is None and self.config.value_residual:
                first = values
        return x


class CognateForCausalLM(CognatePreTrainedModel, GenerationMixin):
    """Cognate with its head.

    ``features`` and ``head`` are what a training loop calls, so that it can compute the cross-entropy in
    chunks; ``forward`` is what everything else calls.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: CognateConfig) -> None:
        super().__init__(config)
        self.model = CognateModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def num_slots(self) -> int:
        """Attentions that a cache must hold."""
        return self.config.num_hidden_layers

    def make_cache(self) -> CognateCache:
        """An empty decode cache for this model."""
        return CognateCache(self.num_slots, self.config.sliding_window, self.config.global_every)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocab] of features [..., hidden]."""
        logits = self.lm_head(hidden.to(compute_dtype(hidden)))
        cap = self.config.logit_soft_cap
        return cap * torch.tanh(logits / cap) if cap else logits

    def features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        past_key_values: CognateCache | None = None,
        output_statistics: bool = False,
    ) -> Features:
        """Features of every step of the recursion, before the head.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T or past + T], 0 = padding.
            position_ids: [B or 1, T]; made from the others if None.
            document_ids: [B, T] numbers of packed documents, −1 = padding.
            inputs_embeds: [B, T, hidden] instead of ``input_ids``.
            past_key_values: cache to read and extend.
            output_statistics: measure gate and halting as well.

        Raises:
            ValueError: unless exactly one of ``input_ids`` and ``inputs_embeds`` is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        layout = self.model.layout(x, attention_mask, position_ids, document_ids, past_key_values)
        shared = self.model.begin(layout, x, past_key_values, output_statistics)
        stream = self.model(x, shared)
        steps = [self.model.norm(stream)]
        if past_key_values is not None:
            past_key_values.prune()
        return Features(steps, [], _statistics(shared), past_key_values, layout)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_statistics: bool = False,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CognateOutput | tuple[Any, ...]:
        """Logits [B, T, vocab], and the loss if ``labels`` [B, T] are given (shifted inside, −100 ignored).

        ``logits_to_keep``: only the last so many positions get logits (0 = all). The other arguments as in
        `features`. ``past_key_values`` may be any empty cache; the one to go on with is in the output.
        """
        if use_cache is None:
            packed = document_ids is not None or labels is not None
            use_cache = bool(self.config.use_cache) and not self.training and not packed
        cache = self._own_cache(past_key_values) if use_cache or past_key_values is not None else None
        found = self.features(
            input_ids,
            attention_mask,
            position_ids,
            document_ids,
            inputs_embeds=inputs_embeds,
            past_key_values=cache,
            output_statistics=output_statistics,
        )
        hidden = found.steps[-1]
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.head(hidden[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        output = CognateOutput(
            loss=loss,
            logits=logits,
            past_key_values=cache,
            hidden=hidden,
            step_hidden=tuple(found.steps),
            halting_logits=tuple(found.halting_logits) or None,
            statistics=found.statistics or None,
        )
        return output if return_dict is not False else output.to_tuple()

    def _own_cache(self, given: Any) -> CognateCache:
        """``generate`` hands over an empty standard cache; ours takes its place."""
        if isinstance(given, CognateCache):
            return given
        if given is not None and given.get_seq_length() > 0:
            raise ValueError(f"Cognate needs its own cache (model.make_cache()), got a filled {type(given).__name__}")
        return self.make_cache()


def _statistics(shared: Pass) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    if shared.gates:
        for name in shared.gates[0]:
            found[f"gate/{name}"] = torch.stack([gate[name] for gate in shared.gates]).mean()
    return found

"""Cognate, a causal language model for `transformers`.

The order of a block: norm → short convolution → attention (and memory, mixed by the gate) → residual;
norm → short convolution → SwiGLU → residual. After the blocks, where it is on, the recursion refines the
features and a halting head decides how many refinements a position gets. Every part that the
configuration switches off has no module, no parameter and no branch at work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

from agent_forge.model.attention import (
    Attention,
    GivenVisibility,
    TokenLayout,
    Visibility,
    document_positions,
    rotary_table,
)
from agent_forge.model.block import CognateBlock, Pass
from agent_forge.model.cache import CognateCache
from agent_forge.model.config import CognateConfig
from agent_forge.model.convolution import Crossings, GivenTaps, ShortConvolution
from agent_forge.model.halting import CALIBRATION_START, HaltingHead, halting_statistics, halting_steps
from agent_forge.model.norm import RMSNorm, compute_dtype
from agent_forge.model.recursion import Recursion, refine, refine_until_halted
from agent_forge.model.titans import INITIAL_RATES, MemoryRates


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
            identity = torch.zeros_like(module.weight)
            identity[:, 0] = 1.0
            init.copy_(module.weight, identity)
        elif isinstance(module, Attention) and module.value_mix is not None:
            init.copy_(module.value_mix, torch.tensor([1.0, 0.0]))
        elif isinstance(module, MemoryRates):
            init.zeros_(module.weight)
            init.copy_(module.bias, torch.tensor(INITIAL_RATES).repeat_interleave(config.memory_heads))
        elif isinstance(module, HaltingHead):
            init.constant_(module.step_accuracy, CALIBRATION_START)
            init.constant_(module.step_rate, CALIBRATION_START)
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
        if attention_mask is not None and attention_mask.dim() == 4:
            self._check_given(position_ids, document_ids)
        elif attention_mask is not None:
            if attention_mask.dim() != 2:
                raise ValueError(f"attention_mask has {attention_mask.dim()} axes, expected [batch, tokens] or 4 axes")
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

    def _check_given(self, position_ids: Tensor | None, document_ids: Tensor | None) -> None:
        """A mask of four axes says all about who sees whom; a memory, which runs along the row, cannot follow it."""
        config = self.config
        if position_ids is None or document_ids is not None:
            raise ValueError("an attention_mask with 4 axes needs position_ids, and document_ids belong into the mask")
        if config.memory != "off":
            raise ValueError(
                f"an attention_mask with 4 axes cannot be followed by a memory (memory {config.memory!r}): "
                "it runs along the row"
            )
        if config.short_convolution > config.sliding_window:
            raise ValueError(
                "an attention_mask with 4 axes cannot be followed by a convolution that reaches beyond the window "
                f"(short_convolution {config.short_convolution}, sliding_window {config.sliding_window})"
            )

    def begin(
        self, layout: TokenLayout, x: Tensor, cache: CognateCache | None, watch: bool, given: Tensor | None = None
    ) -> Pass:
        """Everything that the blocks share; ``given`` is a mask of four axes, or None."""
        config = self.config
        keys = layout if cache is None else cache.extend(layout)
        visibility: Visibility | GivenVisibility
        crossings: Crossings | GivenTaps
        if given is None:
            visibility = Visibility(layout, keys, config.sliding_window, config.global_every)
            crossings = Crossings(layout, config.short_convolution)
        else:
            visibility = GivenVisibility(layout, given)
            crossings = GivenTaps(visibility.visible[:, 0], layout.positions, keys.positions, config.short_convolution)
        return Pass(
            layout=layout,
            table=rotary_table(layout.positions, config.head_size, config.rope_theta, compute_dtype(x)),
            visibility=visibility,
            crossings=crossings,
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
        self.recursion = Recursion(config) if config.has_recursion else None
        self.halting = HaltingHead(config.hidden_size, config.recursion_steps) if config.has_halting else None
        if self.halting is not None:
            self.halting.shifts = not config.stateless_mode
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def num_slots(self) -> int:
        """Attentions that a cache must hold."""
        return self.config.num_hidden_layers + int(self.recursion is not None)

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
        steps: int | None = None,
        halt: bool = False,
    ) -> Features:
        """Features of every step of the recursion, before the head.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T or past + T], 0 = padding; or [B or 1, 1, T, past + T], True or 0 where a token may
                look, instead of window, documents and order (needs ``position_ids``; not with a memory).
            position_ids: [B or 1, T]; made from the others if None.
            document_ids: [B, T] numbers of packed documents, −1 = padding.
            inputs_embeds: [B, T, hidden] instead of ``input_ids``.
            past_key_values: cache to read and extend.
            output_statistics: measure gate and halting as well.
            steps: predictions per token; None = ``recursion_steps``. Fewer or more than trained may be asked for.
            halt: stop each position where the halting head says so, and give only the final answers.

        Raises:
            ValueError: unless exactly one of ``input_ids`` and ``inputs_embeds`` is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        layout = self.model.layout(x, attention_mask, position_ids, document_ids, past_key_values)
        given = attention_mask if attention_mask is not None and attention_mask.dim() == 4 else None
        shared = self.model.begin(layout, x, past_key_values, output_statistics, given)
        stream = self.model(x, shared)
        refined = self._refined(self.model.norm(stream), shared, steps, halt and self.halting is not None)
        if past_key_values is not None and given is None:
            past_key_values.prune()
        return refined

    def _refined(self, x: Tensor, shared: Pass, steps: int | None, halt: bool) -> Features:
        """The recursion, where there is one, and the statistics."""
        statistics = _gate_statistics(shared)
        count = self.config.recursion_steps if steps is None else steps
        if self.recursion is None or (count < 2 and shared.cache is None):
            return Features([x], [], statistics, shared.cache, shared.layout)
        taken: Tensor | None = None
        if halt and self.halting is not None:
            answer, taken, logits = refine_until_halted(
                self.recursion, self.halting, x, shared, count, self.config.halting_threshold
            )
            found = [answer]
        else:
            found, logits = refine(self.recursion, self.halting, x, shared, count)
            if logits:
                taken = halting_steps(logits, self.config.halting_threshold)
        if shared.watch and taken is not None:
            statistics |= halting_statistics(taken, logits, shared.layout.valid)
        return Features(found, logits, statistics, shared.cache, shared.layout)

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
        steps: int | None = None,
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
            steps=steps,
            halt=not self.training and labels is None,
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


def _gate_statistics(shared: Pass) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    if shared.gates:
        for name in shared.gates[0]:
            found[f"gate/{name}"] = torch.stack([gate[name] for gate in shared.gates]).mean()
    return found

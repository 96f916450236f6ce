"""The recursion in a graph: unrolled where its depth is fixed, an ONNX ``Loop`` where a halting head decides.

Only the last token is refined: the keys and values of the refinement come from the features, never from the answers
(see `agent_forge.model.recursion`), so the other tokens' answers are nobody's past.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop_op
from torch.func import functional_call

from agent_forge.model.config import CognateConfig
from agent_forge.model.halting import HaltingHead
from agent_forge.model.modeling import CognateForCausalLM
from agent_forge.model.recursion import Recursion
from agent_forge.phases.edge.onnx_layers import AttentionStep, Norm, Pass, Projection, SwiGluStep, remember


class _Refinement(nn.Module):
    """One step of the recursion, as `agent_forge.model.recursion.Recursion.forward`, for one token."""

    def __init__(self, recursion: Recursion, config: CognateConfig, projection: Projection) -> None:
        super().__init__()
        self.micro_steps = recursion.micro_steps
        self.attention_norm, self.mlp_norm = Norm(recursion.attention_norm), Norm(recursion.mlp_norm)
        self.state_norm = Norm(recursion.state_norm)
        self.attention = AttentionStep(recursion.attention, config, projection, apart=True)
        self.mlp = SwiGluStep(recursion.mlp, projection)

    def forward(self, x: Tensor, y: Tensor, z: Tensor, *seen: Tensor) -> tuple[Tensor, Tensor]:
        """The next y and z; ``seen``: keys, values, cosines, sines and mask."""
        for _ in range(self.micro_steps):
            state = x + y + z
            z = self.state_norm(state + self._change(state, *seen))
        return y + self._change(y + z, *seen), z

    def _change(self, state: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        h = self.attention.query(self.attention_norm(state))
        query = h.unflatten(-1, (self.attention.heads, self.attention.size))
        query = self.attention.ready(query, self.attention.q_norm, cos, sin)
        attended = self.attention.attend(query, key, value, mask)
        return attended + self.mlp(self.mlp_norm(state + attended))


class RecursionStep(nn.Module):
    """Refinement of the last token: unrolled, or a loop that the halting head ends.

    Args:
        model: with a recursion.
        projection: how products are made.
    """

    def __init__(self, model: CognateForCausalLM, projection: Projection) -> None:
        super().__init__()
        assert model.recursion is not None
        self.steps = model.config.recursion_steps
        self.refinement = _Refinement(model.recursion, model.config, projection)
        self.halting = None if model.halting is None else _HaltingStep(model.halting, model.config)

    def forward(self, x: Tensor, shared: Pass, slot: int) -> Tensor:
        """The last token's answer [1, 1, hidden]."""
        attention = self.refinement.attention
        key, value = attention.split_key_value(self.refinement.attention_norm(x))
        key = attention.ready(key, attention.k_norm, shared.cos, shared.sin)
        seen = remember(shared, slot, key, value.transpose(1, 2))
        x = x[:, -1:]
        fixed = (x, *seen, shared.cos[:, -1:], shared.sin[:, -1:], shared.mask[:, :, -1:])
        if self.halting is not None:
            return self._until_halted(self.halting, fixed)
        y, z = x, torch.zeros_like(x)
        for _ in range(self.steps - 1):
            y, z = self.refinement(x, y, z, *fixed[1:])
        return y

    def _until_halted(self, halting: nn.Module, fixed: tuple[Tensor, ...]) -> Tensor:
        """As `agent_forge.model.recursion.refine_until_halted`, for one position.

        The loop's body may not reach out of itself, so weights go in as arguments.
        """
        weights, head = dict(self.refinement.named_buffers()), dict(halting.named_buffers())
        count = len(fixed)

        def goes_on(taken: Tensor, y: Tensor, z: Tensor, *rest: Tensor) -> Tensor:
            given = dict(zip(head, rest[count + len(weights) :], strict=True))
            return (taken < self.steps) & ~functional_call(halting, given, (y, z, taken - 1))

        def refined(taken: Tensor, y: Tensor, z: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            given = dict(zip(weights, rest[count : count + len(weights)], strict=True))
            y, z = functional_call(self.refinement, given, (rest[0], y, z, *rest[1:count]))
            return taken + 1, y, z

        first = fixed[0].clone(
            memory_format=torch.contiguous_format
        )  # a slice has strides of its own; the loop minds them
        start = (torch.ones((), dtype=torch.long), first, torch.zeros_like(first))
        rest = (*fixed, *weights.values(), *head.values())
        answer: Tensor = while_loop_op(goes_on, refined, start, rest)[1]  # type: ignore[arg-type]  # numbers in its hint
        return answer


class _HaltingStep(nn.Module):
    """Whether a token that has taken some steps needs no more."""

    weight: Tensor
    bias: Tensor
    shift: Tensor

    def __init__(self, head: HaltingHead, config: CognateConfig) -> None:
        super().__init__()
        self.threshold = config.halting_threshold
        self.register_buffer("weight", head.projection.weight.detach().clone())
        self.register_buffer("bias", head.projection.bias.detach().clone())
        shift = head.step_accuracy.logit(1e-4) - head.step_rate.logit(1e-4)
        self.register_buffer("shift", shift.detach() if head.shifts else torch.zeros_like(shift))

    def forward(self, y: Tensor, z: Tensor, step: Tensor) -> Tensor:
        logit = F.linear(y + z, self.weight, self.bias) + self.shift.index_select(0, step.reshape(1))
        return (torch.sigmoid(logit) > self.threshold).reshape(())

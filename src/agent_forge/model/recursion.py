"""Recursive refinement of the features by one small shared block, causal and with one cache.

Jolicoeur-Martineau 2025 (Tiny Recursive Model, arXiv:2510.04871, sections 4.1-4.3). An answer y and a
latent z per position: each step refines z some times from (x, y, z), then y from (y, z), through the same
block. What differs:
1. Step 1 is the backbone's own prediction: y starts as the features x, z as zero. One step costs nothing.
2. y is updated by a residual. With output projections that start at zero all steps begin by predicting the
   same, so depth can be raised in the middle of a run. z is normalised after each refinement, as in the paper.
3. The block's keys and values come from x, never from y or z. They are computed once for all steps, decoding
   needs one cache slot, and a position can stop without its neighbours noticing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agent_forge.model.attention import AnyVisibility, attend
from agent_forge.model.block import Pass, SwiGLU, make_attention
from agent_forge.model.config import CognateConfig
from agent_forge.model.halting import HaltingHead
from agent_forge.model.norm import RMSNorm


class Recursion(nn.Module):
    """The shared block, the states and the order of their updates."""

    def __init__(self, config: CognateConfig) -> None:
        super().__init__()
        self.slot = config.num_hidden_layers
        self.micro_steps, self.detach = config.micro_steps, config.recursion_detach
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = make_attention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, int(config.recursion_intermediate_size or config.intermediate_size))
        self.state_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def remember(self, x: Tensor, shared: Pass) -> tuple[Tensor, Tensor]:
        """Keys and values of the features, for all steps; they go into the cache."""
        h = self.attention_norm(x)
        return shared.remember(self.slot, self.attention.keys(h, shared.table), self.attention.values(h))

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        seen: tuple[Tensor, Tensor],
        table: tuple[Tensor, Tensor],
        who: AnyVisibility,
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            x: features [B, A, hidden] of the positions at work.
            y: their answers.
            z: their latents.
            seen: keys and values of all positions, from `remember`.
            table: rotary table of the positions at work.
            who: what they may see.

        Returns:
            The next y and z.
        """
        if self.detach:
            y, z = y.detach(), z.detach()
        # 1. refine the latent, seeing the features
        for _ in range(self.micro_steps):
            state = x + y + z
            z = self.state_norm(state + self._change(state, seen, table, who))
        # 2. refine the answer, not seeing them (paper, section 4.2)
        return y + self._change(y + z, seen, table, who), z

    def _change(
        self, state: Tensor, seen: tuple[Tensor, Tensor], table: tuple[Tensor, Tensor], who: AnyVisibility
    ) -> Tensor:
        query = self.attention.queries(self.attention_norm(state), table)
        attended = self.attention.output(attend(query, *seen, who))
        return attended + self.mlp(self.mlp_norm(state + attended))


def refine(
    recursion: Recursion, halting: HaltingHead | None, x: Tensor, shared: Pass, steps: int
) -> tuple[list[Tensor], list[Tensor]]:
    """All steps for all positions, as training needs them.

    Args:
        recursion: the shared block.
        halting: the head, if there is one.
        x: [B, T, hidden] features after the final norm.
        shared: of this pass.
        steps: predictions to make, the first being ``x`` itself.

    Returns:
        Answers [B, T, hidden] and halting logits [B, T], one of each per step.
    """
    answers, logits = [x], list[Tensor]()
    y, z = x, torch.zeros_like(x)
    seen = recursion.remember(x, shared)
    for _ in range(steps - 1):
        if halting is not None:
            logits.append(halting(y, z, len(logits)))
        y, z = recursion(x, y, z, seen, shared.table, shared.visibility)
        answers.append(y)
    if halting is not None:
        logits.append(halting(y, z, len(logits)))
    return answers, logits


def refine_until_halted(
    recursion: Recursion, halting: HaltingHead, x: Tensor, shared: Pass, steps: int, threshold: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Only the steps that each position asks for, as inference wants them: the work shrinks with those at work.

    Args:
        recursion: the shared block.
        halting: the head.
        x: [B, T, hidden] features after the final norm.
        shared: of this pass.
        steps: most predictions.
        threshold: a position stops when its halting probability exceeds this.

    Returns:
        The answers [B, T, hidden], the steps that each position took [B, T], and the halting logits
        [B, T] of each step made (of stopped positions, the last ones that they gave).
    """
    answer, z = x.clone(), torch.zeros_like(x)
    taken = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
    seen = recursion.remember(x, shared)
    current = halting(answer, z, 0)
    logits = [current]
    working = current.sigmoid() <= threshold
    if shared.layout.valid is not None:
        working = working & shared.layout.valid
    for step in range(1, steps):
        if not bool(working.any()):
            break
        rows, chosen = _compact(working)
        y_new, z_new = recursion(
            x[rows, chosen],
            answer[rows, chosen],
            z[rows, chosen],
            seen,
            _table_at(shared.table, rows, chosen),
            shared.visibility.at(chosen),
        )
        # a row without work is padded by a position that has stopped: it writes its old values back
        real = working[rows, chosen][..., None]
        answer[rows, chosen] = torch.where(real, y_new.to(answer.dtype), answer[rows, chosen])
        z[rows, chosen] = torch.where(real, z_new.to(z.dtype), z[rows, chosen])
        taken = taken + working
        current = torch.where(working, halting(answer, z, step), current)
        logits.append(current)
        working = working & (current.sigmoid() <= threshold)
    return answer, taken, logits


def _compact(working: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers [B, 1] and column numbers [B, A] of the positions at work; shorter rows repeat their first."""
    count = int(working.sum(1).max())
    order = (~working).to(torch.uint8).sort(dim=1, stable=True).indices[:, :count]
    real = working.gather(1, order)
    order = torch.where(real, order, order[:, :1])
    return torch.arange(working.shape[0], device=working.device)[:, None], order


def _table_at(table: tuple[Tensor, Tensor], rows: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = table
    if cos.shape[0] == 1:
        return cos[0][chosen], sin[0][chosen]
    return cos[rows, chosen], sin[rows, chosen]

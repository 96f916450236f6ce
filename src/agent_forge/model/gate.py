"""The MAG gate: how much of attention and of long-term memory a token takes.

Behrouz, Zhong, Mirrokni 2024 (Titans, arXiv:2501.00663, section 4.2: memory as a gate). What differs:
1. Instead of the product of two normalised branches, a small network of both gives a convex mixture
   g⊙y + (1−g)⊙m, as the specification of Agent Forge has it.
2. The output bias starts at 1, so that attention leads at the start of training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_BIAS = 1.0


class MemoryGate(nn.Module):
    """g = σ(MLP([y ‖ m])); gives g⊙y + (1−g)⊙m.

    Args:
        size: channels of both branches.
        gate_size: hidden width.
    """

    parameter_role = "gate"

    def __init__(self, size: int, gate_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * size, gate_size, bias=False)
        self.output = nn.Linear(gate_size, size, bias=True)
        self.output.bias_starts_at = INITIAL_BIAS  # type: ignore[assignment]

    def forward(self, attended: Tensor, remembered: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes two tensors [B, T, size]; gives the mixture and the gate g in fp32 or autocast's dtype."""
        both = torch.cat([attended, remembered.to(attended.dtype)], -1)
        gate = torch.sigmoid(self.output(F.silu(self.hidden(both))))
        return torch.lerp(remembered.to(gate.dtype), attended.to(gate.dtype), gate), gate


def gate_statistics(gate: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
    """What a gate does.

    Args:
        gate: [B, T, size] in (0, 1).
        valid: [B, T] False for padding.

    Returns:
        ``m_usage``, mean share of the memory 1−g, and ``entropy``, mean entropy in nats of the binary
        choice (at most ln 2 ≈ 0.693). The regulariser maximises the entropy: subtract it from the loss.
    """
    g = gate.float()
    entropy = -(torch.xlogy(g, g) + torch.xlogy(1 - g, 1 - g))
    usage = 1 - g
    if valid is None:
        return {"m_usage": usage.mean(), "entropy": entropy.mean()}
    weights = valid[..., None].float()
    total = weights.sum().clamp(min=1) * gate.shape[-1]
    return {"m_usage": (usage * weights).sum() / total, "entropy": (entropy * weights).sum() / total}

"""A network that predicts itself: its hidden states, and whether it will be right.

Paper: Premakumar et al. 2024, "Unexpected Benefits of Self-Modeling in Neural Systems" (arXiv:2407.10188, section 2):
an auxiliary head predicts the network's own hidden activations; learning that makes the network simpler.

What we do differently:
1. The target is the hidden state of a middle layer, predicted from what the head reads, and gradients do not flow
   into the target (stop-gradient): the network cannot win by making its middle layer empty.
2. The target is centred and divided by its mean spread, so that the weight means the same for every network.
3. The network also predicts its own success: logistic regression on the last state of a question, fitted on
   questions that nobody trains on, gives a confidence whose calibration is measured (expected calibration error,
   Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599, equation 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.evaluation.tasks import prompt_ids
from agent_forge.model.forward import head_inputs


class SelfModel(nn.Module):
    """The auxiliary head: from what the head of the network reads, [.., d], to a middle layer's output, [.., d]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, width)
        with torch.no_grad():
            # From zero: at first the head predicts the mean, and the network is not pulled anywhere.
            self.projection.weight.zero_()
            self.projection.bias.zero_()

    def loss(self, last: Tensor, middle: Tensor, valid: Tensor) -> Tensor:
        """Mean squared error of the standardized target; 1 for a guess of the mean.

        Args:
            last: [B, T, d], what the head reads.
            middle: [B, T, d], the target; no gradient goes there.
            valid: bool [B, T].
        """
        target = middle.detach()[valid].float()
        spread = target.var(0, unbiased=False).mean().clamp(min=1e-8).sqrt()
        return F.mse_loss(self.projection(last[valid].float()), (target - target.mean(0)) / spread)


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The list of the model's layers: the longest list of modules of one type.

    Raises:
        ValueError: the model has no such list.
    """
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) and len({type(x) for x in m}) == 1]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of layers to predict")
    return max(lists, key=len)


@contextmanager
def middle_states(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the output of the middle layer in every forward pass of the block (the last call counts)."""
    layers = layers_of(model)
    seen: list[Tensor] = []

    def keep(module: nn.Module, arguments: object, output: object) -> None:
        state = output[0] if isinstance(output, tuple) else output
        assert isinstance(state, Tensor)
        seen.append(state)

    handle = layers[(len(layers) - 1) // 2].register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


@torch.inference_mode()
def question_states(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> Tensor:
    """What the head reads just before the answer begins: fp32 [N, d]."""
    device = next(model.parameters()).device
    states = []
    for ids in prompt_ids(tokenizer, prompts):
        with head_inputs(model) as seen:
            model(input_ids=torch.tensor([ids], device=device), use_cache=False)
        states.append(seen[0][0, -1].float().cpu())
    return torch.stack(states)


def fit_confidence(states: Tensor, right: Tensor, *, decay: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logistic regression of success on states, with an L2 penalty; deterministic.

    Args:
        states: [N, d].
        right: bool [N].
        decay: strength of the penalty on standardized weights.

    Returns:
        Weights [d + 1], the bias last, and mean and deviation [d] by which states are standardized.
    """
    mean, deviation = states.mean(0), states.std(0, unbiased=False).clamp(min=1e-6)
    inputs = torch.cat([(states - mean) / deviation, torch.ones(len(states), 1)], 1).double()
    target = right.double()
    weights = torch.zeros(inputs.shape[1], dtype=torch.float64)
    penalty = torch.full_like(weights, decay)
    penalty[-1] = 1e-3

    def cost(at: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(inputs @ at, target, reduction="sum") + (penalty * at * at).sum() / 2

    for _ in range(50):  # Newton with halved steps: the problem is convex and has d + 1 unknowns
        chance = torch.sigmoid(inputs @ weights)
        gradient = inputs.t() @ (chance - target) + penalty * weights
        curvature = (inputs * (chance * (1 - chance))[:, None]).t() @ inputs + torch.diag(penalty)
        step = torch.linalg.solve(curvature, gradient)
        while float(cost(weights - step)) > float(cost(weights)) and float(step.abs().max()) > 1e-9:
            step = step / 2
        weights = weights - step
        if float(step.abs().max()) < 1e-9:
            break
    return weights.float(), mean, deviation


def confidence(states: Tensor, fitted: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The probability of a right answer, [N]."""
    weights, mean, deviation = fitted
    return torch.sigmoid((states - mean) / deviation @ weights[:-1] + weights[-1])


def expected_calibration_error(said: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Mean gap between confidence and accuracy over equal bins of confidence, weighted by their size, 0–1.

    Args:
        said: confidences in [0, 1], [N].
        right: bool [N].
        bins: number of bins.

    Raises:
        ValueError: nothing to compare.
    """
    if not len(said) or len(said) != len(right):
        raise ValueError(f"{len(said)} confidences for {len(right)} answers")
    place = np.minimum((np.asarray(said) * bins).astype(int), bins - 1)
    error = 0.0
    for each in range(bins):
        chosen = place == each
        if chosen.any():
            error += chosen.mean() * abs(float(np.mean(said[chosen])) - float(np.mean(right[chosen])))
    return float(error)


def complexity(model: nn.Module, last: Tensor) -> dict[str, float]:
    """What the paper looks at: spread of the body's weights and effective rank of what the head reads.

    Args:
        model: the network.
        last: [N, d] states.
    """
    spread = [float(p.detach().std()) for p in model.parameters() if p.ndim == 2]
    values = torch.linalg.svdvals(last.float() - last.float().mean(0))
    share = values / values.sum().clamp(min=1e-12)
    rank = float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum()))
    return {"forge/weight_deviation": float(np.mean(spread)), "forge/effective_rank": rank}

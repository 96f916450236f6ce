"""How much the loss minds an error in each weight: the diagonal of the Fisher information.

LeCun et al. 1990 ("Optimal Brain Damage"): for small independent errors Δ the loss rises by ½ Σ H_ii Δ_i². The
diagonal of the Hessian is replaced by the empirical Fisher, E[g²] over tokens. Gradients are taken per document
(the mean over its T tokens) and scaled by T, as for independent tokens. The absolute level is only rough; the
allocation corrects it by measuring, and the proportions between tensors are what it is used for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel


def diagonal_fisher(model: PreTrainedModel, batches: Sequence[Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Mean squared gradient of every weight of some parameters.

    Args:
        model: a causal language model; its ``requires_grad`` flags are left as they were.
        batches: one document each, token ids [1, T] with T ≥ 2.
        names: parameters to look at.

    Returns:
        name → [shape of the parameter] in nats per token per squared unit of weight.

    Raises:
        ValueError: no documents, or a name that is no parameter.
    """
    parameters = dict(model.named_parameters())
    wanted = list(names)
    unknown = [name for name in wanted if name not in parameters]
    if unknown or not batches:
        raise ValueError(f"{len(batches)} documents; unknown parameters: {unknown}")
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in set(wanted))
    sums = {name: torch.zeros_like(parameters[name], dtype=torch.float32) for name in wanted}
    try:
        for ids in batches if wanted else []:
            logits = model(input_ids=ids).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:])
            found = torch.autograd.grad(loss, [parameters[name] for name in wanted], allow_unused=True)
            for name, gradient in zip(wanted, found, strict=True):
                if gradient is not None:
                    sums[name] += gradient.float().square() * ((ids.shape[1] - 1) / len(batches))
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
    return sums


def predicted_loss(fisher: Mapping[str, Tensor], name: str, delta: Tensor) -> float:
    """½ Σ F Δ² in nats per token; parameters without a gradient count as 0."""
    if name not in fisher:
        return 0.0
    return 0.5 * float((fisher[name].double() * delta.double().square()).sum())


def row_sensitivity(fisher: Tensor) -> Tensor:
    """Mean over the last dimension [rows], with a tenth of the mean as a floor: unseen is not the same as unused."""
    rows = fisher.reshape(-1, fisher.shape[-1]).mean(dim=1)
    return rows + 0.1 * rows.mean()

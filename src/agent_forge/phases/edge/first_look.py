"""What a model must have for phase 7 to end well, looked at before hours of work: a graph, and room for its texts."""

from __future__ import annotations

import copy

from transformers import PreTrainedModel

from agent_forge.errors import HandoffError
from agent_forge.model.forward import known_positions
from agent_forge.phases.edge.config import EdgeConfig
from agent_forge.phases.edge.export_onnx import step_of
from agent_forge.phases.edge.onnx_parity import LONGEST
from agent_forge.phases.edge.speed import PROMPT_TOKENS

_COMPARED = 64
"""Tokens of a question that graph and model are compared on, at most."""


def refuse_unfit(model: PreTrainedModel, config: EdgeConfig) -> None:
    """Looks at a model without running it.

    Args:
        model: in evaluation mode; it stays as it is.
        config: of the phase.

    Raises:
        ConfigError: the extra that writes graphs is not installed.
        HandoffError: the model has no ONNX form, or positions for fewer tokens than the phase reads at once.
    """
    step_of(model if model.device.type == "cpu" else copy.deepcopy(model).cpu(), config.flavour).states()
    bound = known_positions(model)
    needed = {
        "a comparison of graph and model": _COMPARED + LONGEST,
        "a window of edge.pruning.sequence_length": config.pruning.sequence_length if config.pruning.kinds else 0,
        "a measure of speed with edge.bench_tokens": PROMPT_TOKENS + config.bench_tokens if config.bench_repeats else 0,
    }
    most = max(needed, key=lambda name: needed[name])
    if bound is not None and bound < needed[most]:
        raise HandoffError(
            f"this {model.config.model_type} has learned positions for {bound} tokens, and {most} takes "
            f"{needed[most]}; take a model with more positions, or less of that"
        )

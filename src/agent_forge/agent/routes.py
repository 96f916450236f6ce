"""The first pass of a design with routes: each question is read once, and its kind decides which row answers it.

It is the classifier of `agent_forge.agent.dispatch`, on the model as it is: without experts, with its own window and
depth. A question that is of no kind with a route is answered as the design's outer row says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.belongings import ROUTES
from agent_forge.agent.design import AgentDesign
from agent_forge.agent.dispatch import BASE, Dispatcher, question_features
from agent_forge.errors import HandoffError
from agent_forge.model.decoder import Decoder

FirstPass: TypeAlias = Callable[[Sequence[str]], list[str]]
"""The kind of each question; `agent_forge.agent.dispatch.BASE` for one of no kind."""


def first_pass(model: Decoder, tokenizer: PreTrainedTokenizerBase, dispatcher: Dispatcher) -> FirstPass:
    """A classifier with the model that it reads with."""

    def recognise(questions: Sequence[str]) -> list[str]:
        return dispatcher.choose(question_features(model, tokenizer, questions)) if questions else []

    return recognise


def open_first_pass(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, design: AgentDesign
) -> FirstPass | None:
    """What a design needs to tell kinds of question apart, from the files beside the weights.

    Args:
        folder: with ``routes.safetensors``.
        model, tokenizer: the agent, without experts.
        design: its design.

    Returns:
        None for a design without routes.

    Raises:
        HandoffError: as `open_dispatcher`.
    """
    dispatcher = open_dispatcher(folder, int(model.config.hidden_size), design)
    return None if dispatcher is None else first_pass(model, tokenizer, dispatcher)


def open_dispatcher(folder: Path, width: int, design: AgentDesign) -> Dispatcher | None:
    """The classifier in ``routes.safetensors``; None for a design without routes.

    Args:
        folder: of a checkpoint.
        width: of what the model's head reads.
        design: of the agent.

    Raises:
        HandoffError: the classifier is not there, cannot be read, or fits neither the model nor the routes.
    """
    if not design.routes:
        return None
    dispatcher = Dispatcher.open(folder, ROUTES)
    if dispatcher is None:
        raise HandoffError(f"the design has routes, and {ROUTES} with the classifier of questions is not beside it")
    return fitting(dispatcher, width, design, ROUTES)


def fitting(dispatcher: Dispatcher, width: int, design: AgentDesign, where: str) -> Dispatcher:
    """The classifier itself, if it reads so many features and knows the kinds of a design's routes.

    Raises:
        HandoffError: it does not; ``where`` it is from is named.
    """
    if dispatcher.weight.shape[1] != width:
        raise HandoffError(f"{where} reads {dispatcher.weight.shape[1]} features, and this model has {width}")
    known = [name for name in dispatcher.classes if name != BASE]
    if unknown := [kind for kind, _ in design.routes if kind not in known]:
        raise HandoffError(f"the design has a route for {unknown[0]!r}, a kind that {where} does not know: {known}")
    return dispatcher

"""The model's own right answers as practice.

Paper: Zelikman et al. 2022, "STaR: Bootstrapping Reasoning With Reasoning" (arXiv:2203.14465, algorithm 1).

What we do differently:
1. An answer is kept only if its steps hold as well (`checker`), not the answer alone.
2. In place of rationalization (asking again with the answer as a hint) a question that was not answered is practised
   with its worked answer: the synthetic world knows how it is done.
3. Training goes on from the present weights; the paper starts each round from the pretrained ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.dialogue import hear
from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import has_thoughts
from agent_forge.evaluation.tasks import prompt_ids
from agent_forge.model.row_generation import generate_rows
from agent_forge.phases.forge.checker import equations_hold, verified
from agent_forge.phases.forge.questions import Question


def own_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    temperature: float,
    max_tokens: int,
    seed: int,
) -> list[Document | None]:
    """Asks each question once and keeps what verifies.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        questions: of the training split.
        temperature: of the answers.
        max_tokens: of an answer.
        seed: of the draws.

    Returns:
        For each question its conversation with the model's own answer, or None where that was wrong.
    """
    prompts = prompt_ids(tokenizer, [question.task.prompt for question in questions])
    room = max_tokens * (2 if has_thoughts(tokenizer) else 1)
    said = generate_rows(
        model,
        tokenizer,
        prompts,
        room,
        thought_budget=max_tokens,
        temperature=temperature,
        seeds=range(seed, seed + len(prompts)),
    )
    return [_verified(each, *hear(tokenizer, ids)) for each, ids in zip(questions, said, strict=True)]


def _verified(question: Question, thought: str, answer: str) -> Document | None:
    """The conversation, where thought and answer pass the checker."""
    if not verified(question.task, answer) or not equations_hold(thought):
        return None
    thoughts = (("thought", thought),) if thought else ()
    turns = (("user", question.task.prompt), *thoughts, ("assistant", answer))
    return Document.chat(turns, question.task.domain, question.task.level)

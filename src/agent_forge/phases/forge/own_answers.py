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

from agent_forge.data.documents import Document
from agent_forge.evaluation.tasks import prompt_ids, write
from agent_forge.phases.forge.checker import verified
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
    said = write(model, tokenizer, prompts, max_tokens, temperature=temperature, seed=seed)
    return [
        Document.chat((("user", each.task.prompt), ("assistant", answer)), each.task.domain, each.task.level)
        if verified(each.task, answer)
        else None
        for each, answer in zip(questions, said, strict=True)
    ]

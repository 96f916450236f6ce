"""Do thoughts help where it is hard? Nats of the right answers' tokens, and the hardest of them apart.

Zelikman et al. 2024 (Quiet-STaR, arXiv:2403.09629, section 5.2) find that thoughts help most with tokens that are
hard to predict.

What we do differently:
1. How hard a token is says the model as it came to the phase, without a thought. Were it one of the compared
   conditions, that one's bad luck would count as hardness, and every other would look better (regression to the mean).
2. The tokens are those of right answers to test questions, given what was thought, not those of ordinary text. The mark
   that ends an answer is the same after every answer and is left out.
3. A gain is a share of the control's nats, all chosen tokens together: 1 − Σ own / Σ control.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from agent_forge.evaluation.bits_per_byte import token_nats
from agent_forge.evaluation.statistics import Difference, paired_bootstrap

HARDEST_FRACTION = 0.1
_LEAST_NATS = 1e-6  # of a question's chosen tokens: a control that is certain of all of them leaves nothing to gain


def answer_token_nats(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 8192,
) -> np.ndarray:
    """Nats of every token of given answers, float64 [M]: one answer after the other.

    Args:
        model: any causal language model.
        prompts: tokens up to where the answer begins, thoughts included; at least one each.
        answers: tokens of the right answers.
        batch_tokens: tokens in a batch at most.
    """
    pairs = zip(prompts, answers, strict=True)
    windows = [(number, [*prompt, *answer], len(answer)) for number, (prompt, answer) in enumerate(pairs) if answer]
    found = dict(token_nats(model, windows, batch_tokens=batch_tokens))
    return np.concatenate([found[number] for number, _, _ in windows]) if windows else np.zeros(0)


def hardest(nats: np.ndarray, fraction: float = HARDEST_FRACTION) -> np.ndarray:
    """bool [M]: this share of the tokens, rounded up, with the most nats; of equal ones the first.

    Args:
        nats: [M] under the model that says what is hard.
        fraction: above 0, at most 1.

    Raises:
        ValueError: there is no token, or the fraction is out of range.
    """
    if not len(nats) or not 0 < fraction <= 1:
        raise ValueError(f"{len(nats)} tokens, fraction {fraction}: at least one token and a fraction in (0, 1] needed")
    chosen = np.zeros(len(nats), bool)
    count = int(np.ceil(round(fraction * len(nats), 9)))  # 0.1 · 30 is a little above 3
    chosen[np.argsort(-nats, kind="stable")[:count]] = True
    return chosen


def relative_gain(own: np.ndarray, control: np.ndarray, questions: np.ndarray) -> Difference:
    """How much lower the loss is, as a share of the control's, with a paired interval over questions.

    Args:
        own: [K] nats of the chosen tokens.
        control: [K] nats of the same tokens under the control.
        questions: [K] which question each belongs to: tokens of one question are drawn together.
    """
    _, rows = np.unique(questions, return_inverse=True)
    first, second = np.bincount(rows, control), np.bincount(rows, own)
    return paired_bootstrap(first, second, np.maximum(first, _LEAST_NATS))

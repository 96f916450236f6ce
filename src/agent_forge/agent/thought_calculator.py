"""A calculator inside thoughts: once the model has written ``12 + 7 =``, the result is put there for it.

Paper: Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems" (arXiv:2110.14168, appendix B): a
calculator overrides the sampling at annotations such as ``<<12+7=``.

What we do differently:
1. There are no annotations: any equation of two whole numbers in a thought counts, because thoughts of this project are
   written as equations.
2. The calculator is the agent's own tool; an agent without one has no such help.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from agent_forge.agent.calls import Call
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.tokenizer import has_thoughts, thought_ids
from agent_forge.model.row_generation import Insert

_TAIL_TOKENS = 24
_OPEN_EQUATION = re.compile(r"(?<![\d.])(-?\d+) ?([-+*/]) ?(\d+) ?=$")
EQUATION = re.compile(r"(?<![\d.])(-?\d+) ?([-+*/]) ?(\d+) ?= ?(-?\d+)(?![\d.])")
"""Two whole numbers and what is said to come of them."""


def calculator_of(toolbox: Toolbox | None) -> str | None:
    """The name of the agent's calculator, or None."""
    tools = [] if toolbox is None else list(toolbox.tools.values())
    return next((tool.name for tool in tools if tool.kind == "calculator" and not tool.disabled), None)


def results_for(tokenizer: PreTrainedTokenizerBase, toolbox: Toolbox | None) -> Insert | None:
    """What `generate_rows` asks after each token; None for an agent that has no thoughts or no calculator."""
    name = calculator_of(toolbox)
    if toolbox is None or name is None or not has_thoughts(tokenizer):
        return None
    opening, closing = thought_ids(tokenizer)
    ends_in_sign: dict[int, bool] = {}

    def insert(said: Sequence[int]) -> Sequence[int]:
        last = said[-1]
        if last not in ends_in_sign:
            ends_in_sign[last] = str(tokenizer.decode([last])).endswith("=")
        if not ends_in_sign[last] or closing in said or opening not in said:
            return ()
        found = _OPEN_EQUATION.search(str(tokenizer.decode(list(said[-_TAIL_TOKENS:]))))
        if found is None:
            return ()
        result = toolbox.call(Call(name, " ".join(found.groups())))
        return tokenizer.encode(f" {result.text}", add_special_tokens=False) if result.ok else ()

    return insert

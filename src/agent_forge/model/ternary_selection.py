"""What is quantized and what must not be touched, by role.

Matrices of the body become ternary. Embeddings, the head (tied or not), norms, gates, the halting head,
convolutions and states of the memory stay in higher precision. Rows of special tokens in embedding and head must come
out bit-identical (premortem RISK-002): a thought token that moves is no longer the token that was taught.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from agent_forge.data.tokenizer import special_ids
from agent_forge.model.roles import Role, parameter_roles, quantizable_linears


@dataclass(frozen=True)
class Selection:
    """The parts of a model as quantization sees them.

    Attributes:
        linears: body matrices by parameter name, in the order of the model.
        tables: embedding and head parameters by name; a tied pair appears once.
        kept: every other parameter that is not quantized, with its role.
        special_rows: rows of the tables that must stay bit-identical, ascending.
    """

    linears: dict[str, nn.Linear]
    tables: dict[str, nn.Parameter]
    kept: dict[str, Role]
    special_rows: tuple[int, ...]


def select(model: nn.Module, tokenizer: Any) -> Selection:
    """Sorts the parameters of ``model`` by role.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer; every special or added token counts as special.

    Raises:
        ValueError: the model has no body matrix that can be quantized.
    """
    roles = parameter_roles(model)
    linears = dict(quantizable_linears(model))
    if not linears:
        raise ValueError(f"{type(model).__name__} has no linear layer in its body that could be made ternary")
    parameters = dict(model.named_parameters())
    tables = {name: p for name, p in parameters.items() if roles[name] in ("embedding", "head") and p.ndim == 2}
    kept = {name: roles[name] for name in parameters if name not in linears and name not in tables}
    rows = min((table.shape[0] for table in tables.values()), default=0)
    return Selection(linears, tables, kept, tuple(sorted(row for row in special_ids(tokenizer) if row < rows)))


def special_rows(selection: Selection) -> dict[str, Any]:
    """A copy of the special rows of every table, to compare with or to put back."""
    rows = list(selection.special_rows)
    return {name: table.detach()[rows].clone() for name, table in selection.tables.items()}

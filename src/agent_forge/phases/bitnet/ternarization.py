"""From a model to its ternary student: a copy with ternary layers, and the precision of each layer.

What the phase and the stand-alone `quantize` share; the folder is written by `agent_forge.model.ternary_checkpoint`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.model import ternary
from agent_forge.model.ternary import TERNARY, Layout, TernaryLinear
from agent_forge.model.ternary_checkpoint import finish_student
from agent_forge.model.ternary_selection import Selection, select
from agent_forge.phases.bitnet.calibration import LayerCalibration


def make_student(
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    calibration: Mapping[str, LayerCalibration],
    *,
    activation_bits: int,
) -> tuple[PreTrainedModel, Selection]:
    """A copy of ``teacher`` whose body matrices are ternary layers, still at full precision (λ = 0)."""
    student = copy.deepcopy(teacher)
    selection = select(student, tokenizer)
    for name, linear in selection.linears.items():
        layout = Layout(calibration[name].group_size, TERNARY)
        TernaryLinear.from_linear(linear, layout, activation_bits=activation_bits, blend=0.0)
    return student, selection


def set_levels(student: PreTrainedModel, levels: Mapping[str, int]) -> None:
    """Gives layers their levels and switches them on (λ = 1); 0 or unnamed = full precision (λ = 0)."""
    for name, layer in ternary.ternary_linears(student).items():
        wanted = levels.get(name, 0)
        if wanted:
            layer.layout = Layout(layer.layout.group_size, wanted)
        layer.blend = 1.0 if wanted else 0.0


def finish(student: PreTrainedModel, selection: Selection, levels: Mapping[str, int], *, embedding_bits: int) -> None:
    """Freezes the ternary layers, turns those that stay in fp16 back into plain ones, and rounds the rest."""
    for name, layer in ternary.ternary_linears(student).items():
        if not levels.get(name, 0):
            layer.to_linear()
    finish_student(student, selection, embedding_bits=embedding_bits)

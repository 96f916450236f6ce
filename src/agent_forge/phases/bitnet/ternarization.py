"""From a model to its ternary checkpoint folder, and back from the packed file.

What the phase and the stand-alone `quantize` share: a student that is a copy of the model with ternary layers, the
precision of each layer, and the folder with its plain, packed and described form.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.errors import ArtifactCorrupt
from agent_forge.model import ternary
from agent_forge.model.checkpoint import WEIGHTS, save_model
from agent_forge.model.ternary import TERNARY, Layout, TernaryLinear
from agent_forge.phases.bitnet.calibration import LayerCalibration
from agent_forge.phases.bitnet.packed_file import PACKED, read_packed, round_for_packing, write_packed
from agent_forge.phases.bitnet.selection import Selection, select, special_rows


@dataclass(frozen=True)
class Sizes:
    """Bytes of one checkpoint: the plain fp32 file and the packed one."""

    plain_bytes: int
    packed_bytes: int

    @property
    def compression_ratio(self) -> float:
        """Plain over packed, whole checkpoint."""
        return self.plain_bytes / self.packed_bytes


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
    ternary.freeze(student)
    round_for_packing(student, selection.tables, selection.special_rows, embedding_bits=embedding_bits)


def save_ternary(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    selection: Selection,
    facts: Mapping[str, Any],
) -> Sizes:
    """Writes the checkpoint folder: plain weights, ``ternary.json``, ``packed.safetensors``, tokenizer and facts.

    Args:
        student: after `finish`.
        tokenizer: its tokenizer.
        folder: made if missing.
        selection: of the student.
        facts: for ``forge.json``.
    """
    save_model(student, tokenizer, folder, dict(facts))
    ternary.write_sidecar(folder, ternary.freeze(student))
    packed = write_packed(student, folder / PACKED, selection.tables, selection.special_rows)
    return Sizes((folder / WEIGHTS).stat().st_size, packed)


def load_packed(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer from a checkpoint folder, weights from ``packed.safetensors`` alone.

    Raises:
        ArtifactCorrupt: the packed file does not fit ``config.json``.
    """
    folder = Path(folder)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    state = read_packed(folder / PACKED)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ArtifactCorrupt(f"{folder / PACKED} does not fit {folder / 'config.json'}: {error}") from error
    ternary.attach(model, folder)
    model.eval()
    return model, AutoTokenizer.from_pretrained(folder)


def changed_special_rows(before: Mapping[str, Tensor], selection: Selection) -> int:
    """Special rows that are not bit-identical to ``before`` (see `selection.special_rows`); the gate wants 0."""
    after = special_rows(selection)
    return sum(int((after[name] != rows).any(-1).sum()) for name, rows in before.items())

"""Ternary checkpoint folders: a student made from one, and a student written as one.

Every phase that trains ternary weights goes round the same way: load a checkpoint (`agent_forge.model.checkpoint`
attaches its ternary layers), thaw it, train the latent weights, round, write. The folder holds the plain form
(dequantized fp32, any ``AutoModel`` loads it), ``ternary.json`` and ``packed.safetensors``, equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.errors import ArtifactCorrupt, HandoffError
from agent_forge.model import ternary
from agent_forge.model.checkpoint import WEIGHTS, save_model
from agent_forge.model.packed_file import PACKED, read_packed, round_for_packing, write_packed
from agent_forge.model.ternary import TERNARY
from agent_forge.model.ternary_selection import Selection, select, special_rows


@dataclass(frozen=True)
class Sizes:
    """Bytes of one checkpoint: the plain fp32 file and the packed one."""

    plain_bytes: int
    packed_bytes: int

    @property
    def compression_ratio(self) -> float:
        """Plain over packed, whole checkpoint."""
        return self.plain_bytes / self.packed_bytes


def thaw_student(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[Selection, list[str]]:
    """Makes a loaded ternary checkpoint trainable through the estimator, in place, without moving one code.

    Layers that are not at three levels (2 or 4 bits, kept higher by an earlier phase) stay frozen: their values are
    what that phase measured, and their codes could not be read back once they move.

    Args:
        model: as `agent_forge.model.checkpoint.load_model` gives it.
        tokenizer: its tokenizer.

    Returns:
        The selection of its parts, and the names of parameters that must not be trained.

    Raises:
        HandoffError: no layer of the model is ternary.
    """
    layers = ternary.ternary_linears(model)
    thawed = {name: layer for name, layer in layers.items() if layer.layout.levels == TERNARY}
    if not thawed:
        raise HandoffError("the checkpoint has no ternary layer; give it to phase bitnet first")
    for layer in thawed.values():
        layer.thaw()
    return select(model, tokenizer), [name for name in layers if name not in thawed]


def finish_student(student: PreTrainedModel, selection: Selection, *, embedding_bits: int = 8) -> None:
    """Freezes the ternary layers to scale × code and rounds the rest, so that both forms on disk are equal.

    Args:
        student: trained; changed in place.
        selection: of the student.
        embedding_bits: 8, 16 or 32 for embedding, head and other wide matrices; special rows stay as they are.
    """
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
        student: after `finish_student`.
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
    """Special rows that are not bit-identical to ``before`` (`ternary_selection.special_rows`); gates want 0."""
    after = special_rows(selection)
    return sum(int((after[name] != rows).any(-1).sum()) for name, rows in before.items())

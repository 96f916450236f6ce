"""Do these checkpoints fit together? Each check names the file, the tensor and the two values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_forge.errors import HandoffError
from agent_forge.phases.evomerge.checkpoint_folder import CheckpointFolder

if TYPE_CHECKING:
    from torch import Tensor

_MUST_AGREE = (
    "model_type", "architectures", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "tie_word_embeddings", "hidden_act",
)  # fmt: skip


def check_configs(folders: Sequence[CheckpointFolder], *, whole_models: bool = True) -> None:
    """One architecture.

    Raises:
        HandoffError: a key of config.json differs.
    """
    first = folders[0]
    keys = (*_MUST_AGREE, "num_hidden_layers") if whole_models else _MUST_AGREE
    for other in folders[1:]:
        for key in keys:
            if first.config.get(key) != other.config.get(key):
                raise HandoffError(
                    f"architectures differ: {key} is {first.config.get(key)!r} in {first.path / 'config.json'} "
                    f"and {other.config.get(key)!r} in {other.path / 'config.json'}"
                )


def check_tokenizers(folders: Sequence[CheckpointFolder]) -> None:
    """One tokenizer: equal vocabularies, merges and special tokens in ``tokenizer.json``, where there is one.

    Raises:
        HandoffError: naming the first token that differs.
    """
    having = [folder for folder in folders if (folder.path / "tokenizer.json").exists()]
    if not having:
        return
    first = having[0].path / "tokenizer.json"
    for folder in having[1:]:
        file = folder.path / "tokenizer.json"
        if file.read_bytes() == first.read_bytes():
            continue
        reference, other = _tokenizer(first), _tokenizer(file)
        if other == reference:
            continue
        left, right = reference["vocabulary"], other["vocabulary"]
        if len(left) != len(right):
            raise HandoffError(f"tokenizers differ: {first} has {len(left)} tokens, {file} has {len(right)}")
        for token, number in left.items():
            if right.get(token) != number:
                raise HandoffError(
                    f"tokenizers differ: token {token!r} is {number} in {first} and {right.get(token)} in {file}"
                )
        raise HandoffError(f"tokenizers differ: merges or special tokens of {first} and {file}")


def check_tensor_names(folders: Sequence[CheckpointFolder]) -> None:
    """Every folder has the same tensors.

    Raises:
        HandoffError: naming the first tensor that one has and another lacks.
    """
    for other in folders[1:]:
        for has, lacks in ((folders[0], other), (other, folders[0])):
            missing = sorted(set(has.entries) - set(lacks.entries))
            if missing:
                raise HandoffError(
                    f"tensor {missing[0]} is in {has.entries[missing[0]].file} and missing in {lacks.path} "
                    f"({len(missing)} such)"
                )


def check_tensor(places: Sequence[tuple[CheckpointFolder, str]]) -> None:
    """The same tensor exists in all places, in one shape.

    Raises:
        HandoffError: missing, or another shape.
    """
    first = places[0][0].entries[places[0][1]]
    for folder, name in places[1:]:
        entry = folder.entries.get(name)
        if entry is None:
            raise HandoffError(f"tensor {name} is in {first.file} (or its layer is) and missing in {folder.path}")
        if entry.shape != first.shape:
            raise HandoffError(
                f"shapes differ: tensor {name} is {list(first.shape)} in {first.file} "
                f"and {list(entry.shape)} in {entry.file}"
            )


def check_finite(tensor: Tensor, folder: CheckpointFolder, name: str) -> None:
    """No NaN, no infinity. The sum tells in one pass; only a suspicious one is looked at closely.

    Raises:
        HandoffError: with the place of the first one.
    """
    import torch

    if not torch.isfinite(tensor.sum(dtype=torch.float32)):
        bad = (~torch.isfinite(tensor.reshape(-1))).nonzero()
        if len(bad):
            place = int(bad[0])
            value = float(tensor.reshape(-1)[place])
            raise HandoffError(
                f"{folder.entries[name].file}: tensor {name} holds {value} at position {place} "
                f"({len(bad)} of {tensor.numel()} entries are not finite; a finite number was expected)"
            )


def check_same_integers(places: Sequence[tuple[CheckpointFolder, str]]) -> None:
    """Tensors that are not floating-point cannot be averaged: all parents must agree.

    Raises:
        HandoffError: they differ.
    """
    import torch

    folder, name = places[0]
    for other, its_name in places[1:]:
        if not torch.equal(folder.tensor(name), other.tensor(its_name)):
            raise HandoffError(
                f"integer tensor {name} differs between {folder.entries[name].file} and "
                f"{other.entries[its_name].file}: it cannot be averaged"
            )


def check_not_all_equal(parents: Sequence[CheckpointFolder]) -> None:
    """At least one tensor of at least one parent differs from the first parent's.

    Raises:
        HandoffError: there is nothing to merge.
    """
    import torch

    first, others = parents[0], [other for other in parents[1:] if other.path != parents[0].path]
    if len(parents) < 2:
        return
    shared = [name for name in first.entries if all(name in other.entries for other in others)]
    for name in shared:
        for other in others:
            if not torch.equal(first.tensor(name), other.tensor(name)):
                first.release(name)
                return
            other.release(name)
        first.release(name)
    files = " and ".join(str(next(iter(parent.entries.values())).file) for parent in parents)
    raise HandoffError(
        f"all parents are equal: {len(shared)} tensors of {files} hold the same values, "
        f"from {shared[0] if shared else 'none'} on; there is nothing to merge"
    )


def _tokenizer(file: Path) -> dict[str, Any]:
    """What decides about ids: not padding, truncation or formatting."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        model = content["model"]
    except (ValueError, KeyError) as error:
        raise HandoffError(f"{file}: not a tokenizer: {error}") from error
    vocabulary = model.get("vocab", {})
    if isinstance(vocabulary, list):
        vocabulary = {str(piece[0]): number for number, piece in enumerate(vocabulary)}
    added = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    return {"vocabulary": {**vocabulary, **added}, "merges": model.get("merges"), "special": sorted(added)}

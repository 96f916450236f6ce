"""Checkpoint folders: written so that plain `transformers` loads them, read with suspicion.

A folder holds ``config.json``, ``model.safetensors``, the tokenizer's files and ``forge.json`` (facts). A
model with ternary layers has ``ternary.json`` as well; its weights are stored dequantized, so that other
programs need not know. Nothing that varies between equal runs is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.contract import ONNX_MANIFEST
from agent_forge.errors import HandoffError

FACTS = "forge.json"
WEIGHTS = "model.safetensors"


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path | str,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a checkpoint folder.

    Args:
        model: any causal language model. Ternary layers are frozen to their codes by this.
        tokenizer: its tokenizer.
        folder: made if missing; files of the same names are replaced.
        facts: JSON values for ``forge.json``.

    Returns:
        The folder.

    Raises:
        HandoffError: a tensor of the model is not finite; nothing is written then.
    """
    folder = Path(folder)
    _refuse_not_finite(model, "the model to be saved")
    folder.mkdir(parents=True, exist_ok=True)
    sidecar = _ternary_sidecar(model)
    # one file whatever the size: other rooms open it by name
    model.save_pretrained(folder, max_shard_size="1TB")
    tokenizer.save_pretrained(folder)
    _without_places(folder / "config.json")
    _without_places(folder / "tokenizer_config.json")
    if sidecar is not None:
        from agent_forge.model.ternary import write_sidecar

        write_sidecar(folder, sidecar)
    text = json.dumps(dict(facts or {}), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")
    return folder


def load_model(
    folder: Path | str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads any causal language model and its tokenizer from a folder, and refuses what does not fit.

    Args:
        folder: a checkpoint folder.
        device: where the model goes.
        dtype: of the weights.

    Returns:
        The model in evaluation mode, ternary layers attached where ``ternary.json`` says so, and the tokenizer.

    Raises:
        HandoffError: a file is missing or unreadable; a tensor is missing, unexpected, of another shape, or
            not finite; the tokenizer knows more tokens than the model. File, tensor and both values are named.
            Or it is an exported graph, which is no model to compute with.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise HandoffError(f"{folder} is no checkpoint: it has no config.json")
    model = _load_weights(folder, dtype)
    tokenizer = load_tokenizer(folder)
    rows = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    if len(tokenizer) > rows:
        raise HandoffError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, but the model's vocabulary has {rows} rows; "
            "use the tokenizer that the model was trained with, or resize its embedding"
        )
    if (folder / "ternary.json").is_file():
        from agent_forge.model.ternary import attach

        attach(model, folder)
    return model.to(device).eval(), tokenizer  # type: ignore[arg-type]


def read_facts(folder: Path | str) -> dict[str, Any]:
    """The facts of ``forge.json``; empty where there is none."""
    path = Path(folder) / FACTS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _load_weights(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    files = sorted(folder.glob("*.safetensors"))
    if not files and (folder / ONNX_MANIFEST).is_file():
        raise HandoffError(
            f"{folder} is an exported ONNX graph, which gives only the logits of the next token: `agent-forge chat` "
            "and `generate` run it, and anything else needs the checkpoint that it was made from"
        )
    if not files:
        raise HandoffError(f"{folder} has a config.json but no .safetensors file with weights")
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise HandoffError(f"{file} cannot be read as safetensors: {error}") from error
    try:
        config = AutoConfig.from_pretrained(folder)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise HandoffError(f"{folder} cannot be loaded as a causal language model: {error}") from error
    model, found = loaded
    where = files[0] if len(files) == 1 else folder
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise HandoffError(f"{where}: tensor {name} has shape {list(stored)}, but config.json asks for {list(wanted)}")
    for name in sorted(found["missing_keys"]):
        wanted = list(model.state_dict()[name].shape)
        raise HandoffError(f"{where}: tensor {name} is missing; config.json asks for one of shape {wanted}")
    for name in sorted(found["unexpected_keys"]):
        raise HandoffError(
            f"{where}: tensor {name} was found, but {type(model).__name__} of config.json has none of that name"
        )
    _refuse_not_finite(model, str(where))
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder.

    Raises:
        HandoffError: there is none, or it cannot be loaded.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise HandoffError(f"{folder} has no tokenizer.json")
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise HandoffError(f"the tokenizer in {folder} cannot be loaded: {error}") from error


@torch.no_grad()
def _refuse_not_finite(model: PreTrainedModel, where: str) -> None:
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or bool(tensor.sum().isfinite()):
            continue
        # the sum may overflow where no value does: look closely before refusing
        wrong = ~tensor.isfinite()
        count = int(wrong.sum())
        if count:
            value = tensor[wrong].flatten()[0].item()
            raise HandoffError(
                f"{where}: tensor {name} holds {count} of {tensor.numel()} values that are not finite "
                f"(the first is {value}); expected 0"
            )


def _ternary_sidecar(model: PreTrainedModel) -> dict[str, Any] | None:
    from agent_forge.model.ternary import freeze, ternary_linears

    return freeze(model) if ternary_linears(model) else None


def _without_places(path: Path) -> None:
    """Takes out of a JSON file where a model was loaded from: equal models, equal bytes."""
    if path.is_file():
        value = json.loads(path.read_text(encoding="utf-8"))
        for key in ("_name_or_path", "name_or_path", "is_local", "local_files_only"):
            value.pop(key, None)
        path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")

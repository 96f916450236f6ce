"""A ternary checkpoint as a GGUF file for llama.cpp, written through the ``gguf`` package.

llama.cpp runs only the architectures that are compiled into it. Llama and Qwen3 models are written as they are; a
Cognate without memory, convolution, recursion, value residual and logit cap is a Qwen3 (with QK-norm) or a Llama
(without) under other names and is written as that, with its sliding window as the context length. Any other Cognate
cannot run there, and the export says so.

Matrices of the body become TQ1_0 or TQ2_0 blocks where 256 divides their columns, else fp16; embedding and head
become Q8_0 where 32 divides their columns, else fp16; the rest stays fp32. llama.cpp rotates neighbouring channels of
a Llama (Qwen3: the two halves, as here), so the rows of its query and key projections are reordered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from agent_forge.errors import ConfigError, HandoffError
from agent_forge.model.checkpoint import WEIGHTS
from agent_forge.model.ternary import TERNARY, Layout, codes_of, read_sidecar
from agent_forge.phases.bitnet.pack_gguf import BLOCK, BLOCK_BYTES, pack_gguf

FILE = "model.gguf"
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_COGNATE = {
    "attention.": "self_attn.",
    "attention_norm.": "input_layernorm.",
    "mlp_norm.": "post_attention_layernorm.",
}


def export_gguf(folder: Path, out: Path, *, kind: str = "TQ2_0") -> dict[str, Any]:
    """Writes ``model.gguf``.

    Args:
        folder: a ternary checkpoint folder.
        out: folder to write.
        kind: "TQ1_0" (1.69 bits a weight) or "TQ2_0" (2.06 bits, faster).

    Returns:
        File, bytes, number of matrices in ternary blocks, the largest difference of a weight that is unpacked again
        (from rounded tables and fp16 scales), and notes on what could not be kept. The file is read back: architecture,
        names and blocks are those that were written. That llama.cpp computes the same words is not tested by this.

    Raises:
        ConfigError: an unknown kind, or the ``gguf`` package is not installed.
        HandoffError: an architecture or scales that GGUF has no form for.
    """
    if kind not in BLOCK_BYTES:
        raise ConfigError(f"kind must be one of {', '.join(sorted(BLOCK_BYTES))}, got {kind!r}")
    try:
        import gguf
    except ImportError as error:
        raise ConfigError("export to gguf needs the gguf package: pip install 'agent-forge[edge]'") from error
    sidecar = read_sidecar(folder)
    if sidecar is None:
        raise HandoffError(f"{folder} is not ternary; run `agent-forge quantize` on it first")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    state, layouts = load_file(folder / WEIGHTS), dict(sidecar["tensors"])
    if config["model_type"] == "cognate":
        config, state, layouts = _as_known_architecture(config, state, layouts)
    architecture = config["model_type"]
    if architecture not in ("llama", "qwen3"):
        raise HandoffError(
            f"GGUF export knows Llama- and Qwen3-shaped models, this one is {architecture!r}; use --to hf"
        )
    out.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(out / FILE, architecture)
    _write_shape(writer, config, kind)
    notes = _write_tokenizer(writer, folder, int(config["vocab_size"]))
    ternary, worst = 0, 0.0
    written: dict[str, np.ndarray] = {}
    for name, tensor in state.items():
        in_blocks, difference = _write_tensor(writer, gguf, name, tensor, layouts.get(name), config, kind, written)
        ternary, worst = ternary + in_blocks, max(worst, difference)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _read_back(gguf, out / FILE, architecture, written)
    if ternary < len(layouts):
        notes.append(
            f"{len(layouts) - ternary} quantized matrices are in fp16: {kind} needs columns divisible by {BLOCK}"
        )
    size = (out / FILE).stat().st_size
    figures = {"ternary_tensors": ternary, "max_weight_difference": worst}
    return {"file": FILE, "bytes": size, "kind": kind, **figures, "notes": notes}


def _as_known_architecture(
    config: Mapping[str, Any], state: Mapping[str, Tensor], layouts: Mapping[str, Layout]
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Layout]]:
    """A plain Cognate under the names of Qwen3 or Llama."""
    parts = {
        "memory": config.get("memory", "off") != "off",
        "short_convolution": bool(config.get("short_convolution")),
        "recursion_steps": bool(config.get("recursion_steps")),
        "value_residual": bool(config.get("value_residual")),
        "logit_soft_cap": bool(config.get("logit_soft_cap")),
    }
    extra = [name for name, used in parts.items() if used]
    if extra:
        raise HandoffError(
            f"llama.cpp has no architecture like this Cognate: it uses {', '.join(extra)}; only a Cognate with those "
            "switched off is a Qwen3 or Llama in disguise. Use --to hf, or the packed.safetensors of the checkpoint"
        )
    shape = {
        **config,
        "model_type": "qwen3" if config.get("qk_norm", True) else "llama",
        "max_position_embeddings": config["sliding_window"],
        "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        "num_key_value_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
    }
    return shape, {_renamed(n): t for n, t in state.items()}, {_renamed(n): layout for n, layout in layouts.items()}


def _renamed(name: str) -> str:
    for old, known in _COGNATE.items():
        name = name.replace(f".{old}", f".{known}")
    return name


def _write_shape(writer: Any, config: Mapping[str, Any], kind: str) -> None:
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or config.get("rope_scaling"):
        raise HandoffError(f"GGUF export knows plain rotary positions only, this model scales them: {rope}")
    heads = int(config["num_attention_heads"])
    size = int(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_file_type({"TQ1_0": 36, "TQ2_0": 37}[kind])
    writer.add_quantization_version(2)


def _write_tokenizer(writer: Any, folder: Path, rows: int) -> list[str]:
    """Byte-level BPE is what llama.cpp calls gpt2; another kind is left out, and the notes say so."""
    path = folder / "tokenizer.json"
    described = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    splitters = json.dumps(described.get("pre_tokenizer"))
    if described.get("model", {}).get("type") != "BPE" or "ByteLevel" not in splitters:
        writer.add_tokenizer_model("none")
        return ["the tokenizer is no byte-level BPE and was left out: give token ids to llama.cpp"]
    added = {entry["id"]: entry for entry in described.get("added_tokens", [])}
    ids = {index: token for token, index in described["model"]["vocab"].items()}
    ids |= {index: entry["content"] for index, entry in added.items()}
    # 1 = normal, 3 = control, 4 = added by the user, 5 = unused row (gguf.TokenType)
    kinds = [(3 if added[i]["special"] else 4) if i in added else (1 if i in ids else 5) for i in range(rows)]
    merges = described["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if '"individual_digits": true' in splitters else "gpt-2")
    writer.add_token_list([ids.get(index, f"[unused{index}]") for index in range(rows)])
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    by_content = {content: index for index, content in ids.items()}
    for role, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        token = settings.get(f"{role}_token")
        if isinstance(token, str) and token in by_content:
            add(by_content[token])
    writer.add_add_bos_token("TemplateProcessing" in json.dumps(described.get("post_processor")))
    template = folder / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text(encoding="utf-8"))
    known = "Digits" in splitters or "Split" not in splitters
    return [] if known else ["the tokenizer splits by a pattern of its own; llama.cpp may split some texts otherwise"]


def _read_back(gguf: Any, path: Path, architecture: str, written: Mapping[str, np.ndarray]) -> None:
    """Raises `HandoffError` unless the file says what was written."""
    reader = gguf.GGUFReader(path)
    if (found := reader.get_field("general.architecture").contents()) != architecture:
        raise HandoffError(f"{path} says architecture {found!r}, and {architecture!r} was written")
    read = {tensor.name: tensor.data for tensor in reader.tensors}
    wrong = sorted(read.keys() ^ written.keys()) or [n for n in written if read[n].tobytes() != written[n].tobytes()]
    if wrong:
        raise HandoffError(f"{path} does not read back as it was written: {', '.join(wrong[:3])}")


def _write_tensor(
    writer: Any,
    gguf: Any,
    name: str,
    tensor: Tensor,
    layout: Layout | None,
    config: Mapping[str, Any],
    kind: str,
    written: dict[str, np.ndarray],
) -> tuple[int, float]:
    """Writes one tensor and adds its blocks to ``written``; 1 if they are ternary, and the largest difference that the
    form makes.
    """
    target = _target(name)
    if name == "lm_head.weight" and config.get("tie_word_embeddings"):
        return 0, 0.0
    if config["model_type"] == "llama" and target.endswith(("attn_q.weight", "attn_k.weight")):
        heads = config["num_attention_heads"] if "attn_q" in target else config.get("num_key_value_heads")
        tensor = tensor[_neighbours(tensor.shape[0], int(heads or config["num_attention_heads"]))]
    if layout is not None and layout.levels == TERNARY and tensor.shape[1] % BLOCK == 0:
        codes, scale = codes_of(tensor, layout)
        try:
            blocks = pack_gguf(codes, scale, kind)
        except ValueError as error:
            raise HandoffError(f"{name}: {error}; quantize with group size -1 (per row) or 0 for GGUF") from error
        form = getattr(gguf.GGMLQuantizationType, kind)
        ternary = 1
    else:
        values, ternary = tensor.float().numpy(), 0
        if tensor.ndim == 2 and target in ("token_embd.weight", "output.weight") and tensor.shape[1] % 32 == 0:
            form = gguf.GGMLQuantizationType.Q8_0
            blocks = gguf.quants.quantize(values, form)
        else:
            form, blocks = None, values.astype(np.float16) if tensor.ndim == 2 else values
    writer.add_tensor(target, blocks, raw_dtype=form)
    written[target] = blocks
    back = blocks if form is None else gguf.quants.dequantize(blocks, form)
    return ternary, float(np.abs(back.astype(np.float32).reshape(tensor.shape) - tensor.float().numpy()).max())


def _target(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{suffix}"
    parts = stem.split(".", 3)
    if len(parts) == 4 and parts[:2] == ["model", "layers"] and parts[3] in _NAMES:
        return f"blk.{parts[2]}.{_NAMES[parts[3]]}.{suffix}"
    raise HandoffError(f"tensor {name} has no place in a GGUF file of this architecture")


def _neighbours(rows: int, heads: int) -> Tensor:
    """Order of rows that puts channel c next to channel c + size / 2 in every head."""
    return torch.arange(rows).view(heads, 2, -1).transpose(1, 2).reshape(-1)

"""Tiny models for the tests of the exports: made, never trained, with weights that say something."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import save_model
from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.model.ternary_checkpoint import finish_student, save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.phases.edge.export_onnx import write_graph
from agent_forge.phases.edge.onnx_session import OnnxSession

TEXTS = [f"{name} has {count} red apples. What is {count} plus 3?" for name in ("Ann", "Bo") for count in range(2, 40)]
SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "memory_size": 16, "gate_size": 12, "sliding_window": 16, "global_every": 4, "zero_init_output": False,
    "initializer_range": 0.2, "short_convolution": 3,
}  # fmt: skip


def tokenizer():
    return train_tokenizer(TEXTS, 300)


def cognate(**changes) -> CognateForCausalLM:
    torch.manual_seed(5)
    model = CognateForCausalLM(CognateConfig(**{**SHAPE, **changes})).eval()
    for name, parameter in model.named_parameters():
        # gains, taps and rates that are not all the same, and memories that are not silent
        if parameter.ndim == 1 or "conv" in name or "bias" in name or not parameter.any():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def ternary_folder(folder: Path, *, activation_bits: int = 8, group_size: int = 0, **changes) -> Path:
    model, tokens = cognate(**changes), tokenizer()
    selection = select(model, tokens)
    for linear in selection.linears.values():
        TernaryLinear.from_linear(linear, Layout(group_size), activation_bits=activation_bits)
    finish_student(model, selection)
    save_ternary(model, tokens, folder, selection, {})
    return folder


def plain_folder(folder: Path, **changes) -> Path:
    save_model(cognate(**changes), tokenizer(), folder)
    return folder


def graph_session(model, place: Path, flavour="cpu") -> OnnxSession:
    """The graph of a model in onnxruntime."""
    manifest = write_graph(model, place / "model.onnx", flavour)
    (place / "onnx.json").write_text(json.dumps(manifest))
    return OnnxSession(place, threads=1)


def largest_difference(model, session, tokens, cuts) -> float:
    """Between the logits of a model over ``tokens`` and those of a graph that reads them in pieces."""
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]), use_cache=False).logits[0]
    session.reset()
    worst, start = 0.0, 0
    for cut in cuts:
        logits = torch.from_numpy(session.step(tokens[start:cut]))
        worst, start = max(worst, float((logits - expected[cut - 1]).abs().max())), cut
    return worst

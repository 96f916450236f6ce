"""What each parameter of a causal language model is for, found by module role and not by a list of names.

Quantization, merging and compression all ask the same question: which tensors are the body's matrices, and
which ones must be left alone? A list of names answers it for one architecture; the role of the module that
owns a tensor answers it for all of them. A module may answer for itself and everything below it by a class
attribute ``parameter_role``; otherwise its type decides, and only then the words of its path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

Role: TypeAlias = Literal["linear", "embedding", "head", "norm", "gate", "halting", "memory", "convolution", "other"]
"""``linear`` is a matrix of the body, the only role that is quantized to ternary."""

# `gate_proj` and `gate_up_proj` are one half of SwiGLU, body matrices like the other half.
_GATE_WORD = re.compile(r"(^|_)(gate|router)$|^(gate|router)_(?!(up_)?proj$)")
_LAYER_NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter of ``model``.

    Args:
        model: any causal language model; with ``get_output_embeddings`` the head is found exactly.

    Returns:
        Role by parameter name. Tied tensors appear under each of their names: the embedding as ``embedding``,
        the head as ``head``.
    """
    head = _output_embeddings(model)
    declared = _declared_roles(model)
    roles: dict[str, Role] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            full = f"{path}.{name}" if path else name
            roles[full] = declared.get(path) or _role(path, module, name, parameter, head)
    return roles


def layer_index(name: str) -> int | None:
    """The number of the layer that a parameter belongs to: the first number of its path, None without one.

    >>> layer_index("model.layers.3.mlp.up_proj.weight")
    3
    """
    found = _LAYER_NUMBER.search(name)
    return int(found.group(1)) if found else None


def quantizable_linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """(parameter name, module) of every body matrix, each module once, in the order of the model."""
    modules = dict(model.named_modules())
    for name, role in parameter_roles(model).items():
        module = modules.get(name.removesuffix(".weight"))
        if role == "linear" and isinstance(module, nn.Linear):
            yield name, module


def _output_embeddings(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_output_embeddings", None)
    return getter() if callable(getter) else None


def _declared_roles(model: nn.Module) -> dict[str, Role]:
    """Roles that modules declare for themselves and for everything below them."""
    declared: dict[str, Role] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        own = getattr(type(module), "parameter_role", None)
        inherited = declared.get(path.rpartition(".")[0]) if path else None
        role = own or inherited
        if role:
            declared[path] = role
    return declared


def _role(path: str, module: nn.Module, name: str, parameter: torch.Tensor, head: nn.Module | None) -> Role:
    words = [*path.split("."), name]
    if module is head or words[-2] in ("lm_head", "embed_out"):
        return "head"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if "norm" in type(module).__name__.lower():
        return "norm"
    if isinstance(module, _ConvNd) or any(word.startswith("conv") for word in words):
        return "convolution"
    if any("halt" in word for word in words):
        return "halting"
    if any(_GATE_WORD.search(word) for word in words):
        return "gate"
    if isinstance(module, nn.Linear) and parameter.ndim == 2:
        # One output feature is a scalar head (a gate, a rate), never a body matrix.
        return "linear" if module.out_features > 1 else "gate"
    return "memory" if any("memory" in word for word in words) else "other"

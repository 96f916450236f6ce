"""Graph and model in double precision: the same two functions, the rounding of inputs to int8 included, without noise.

In fp32 a model that rounds its inputs cannot equal any other way of computing it (`onnx_parity`). In double both
sides differ in the sixteenth digit, which tips over hardly anything; what is left is the graph.

Neither side is built anew. The graph is the file of the export: its fp32 tensors and casts become double, nothing
else, and the reference implementation of the ONNX project computes it: it minds no types, where onnxruntime refuses
``RotaryEmbedding`` in double, which the standard does not foresee. The model is a copy in double, in which what asks
for fp32 gets double.

Two things both sides agree on:
1. Constants (0.99, 1e-6, frequencies) are the fp32 numbers that the graph holds.
2. A number at the middle between two steps is rounded away from zero. Attention over one token gives whole numbers
   times one scale, so half of the largest stands exactly there, and the sixteenth digit would decide.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_attention
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from agent_forge.phases.edge.onnx_session import OnnxSession

_AWAY = 1 + 2.0**-30
_NAMES_OF_TYPES = ("to", "dtype", "softmax_precision")
_ROUNDING = (Tensor.round, Tensor.round_, torch.round)
_ANY_SIZE = 2**40


class DoubleSession(OnnxSession):
    """The graph of an export in double, to be driven like the graph itself.

    Args:
        folder: the export.

    Raises:
        ConfigError, ArtifactCorrupt: as `OnnxSession`.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder, threads=1)
        from onnxscript import optimizer

        wide = widened(onnx.load(self.folder / self.manifest["file"]))
        optimizer.fold_constants(wide, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)  # unpacks the weights
        self.session = ReferenceEvaluator(wide, new_ops=[Round, Attention])
        self.states = [
            {**state, "dtype": "float64" if state["dtype"] == "float32" else state["dtype"]} for state in self.states
        ]
        self.reset()


class Round(OpRun):
    """The operator, away from zero at the middle."""

    op_domain = ""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (np.round(x * _AWAY),)


class Attention(op_attention.Attention):
    """The operator; a scale comes as a number of fp32, whose root would be one, too."""

    scale: float | None

    def __init__(self, onnx_node: onnx.NodeProto, run_params: dict[str, Any]) -> None:
        super().__init__(onnx_node, run_params)
        self.scale = None if self.scale is None else float(self.scale)


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, its fp32 tensors and casts in double."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _widen(wide.graph)
    return wide


@contextmanager
def in_double(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """A copy of ``model`` in double; while the block runs, torch computes nothing in fp32."""
    wide = copy.deepcopy(model).double()
    with _Double():
        yield wide


def _widen(graph: onnx.GraphProto) -> None:
    single, double = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == single:
            value.type.tensor_type.elem_type = double
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    for tensor in (*graph.initializer, *(attribute.t for attribute in attributes if attribute.HasField("t"))):
        if tensor.data_type == single:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype("f8"), tensor.name))
    for attribute in attributes:
        if attribute.name in _NAMES_OF_TYPES and attribute.i == single:
            attribute.i = double
        if attribute.HasField("g"):
            _widen(attribute.g)


class _Double(TorchFunctionMode):
    """What makes fp32 of a tensor makes double; what makes a tensor of nothing makes constants, which stay fp32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].to(torch.float64, copy=True)  # of another type it is a copy, and may be written into
        changes = bool(args) and isinstance(args[0], Tensor)
        args, kwargs = [_given(value, changes) for value in args], dict(kwargs or {})
        kwargs = {name: _given(value, changes) for name, value in kwargs.items()}
        if func in _ROUNDING:
            args[0] = args[0].mul_(_AWAY) if func is Tensor.round_ else args[0] * _AWAY
        return func(*args, **kwargs)


def _given(value: Any, changes: bool) -> Any:
    """An argument, in double; ``changes``: of a function that changes a tensor."""
    if isinstance(value, float):
        return float(np.float32(value))
    return torch.float64 if changes and value is torch.float32 else value

"""Ternary weights: absmean rounding, the linear layer that trains through it, and its form on disk.

Papers: Ma et al. 2024, "The Era of 1-bit LLMs" (arXiv:2402.17764, section 2: absmean and absmax functions);
Wang et al. 2023, "BitNet" (arXiv:2310.11453, section 2.2: straight-through estimator); Bengio et al. 2013
(arXiv:1308.3432, the estimator itself); Liu et al. 2025, "ParetoQ" (arXiv:2502.02631: two-bit levels without zero).

What we do differently:
1. γ = mean|W| per tensor as in the paper, or per row, or per group of input columns (finer costs 16 bits a group).
2. γ is rounded to fp16 in every forward, so that the trained network is exactly the one that is packed.
3. A blend λ moves weights and activations from full precision (0) to ternary (1); the estimator is the identity.
4. The same layer can hold 2-bit (−1.5, −0.5, 0.5, 1.5) · s and 4-bit (−7 … 7) · s weights, for the rare layer
   that does not survive three levels.
5. On disk the weights are γ·{−1, 0, 1} in full precision, so that a plain ``AutoModel`` loads them, and
   ``ternary.json`` beside them says which tensors those are. Codes and γ are recovered from the values exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from agent_forge.errors import HandoffError

PER_TENSOR = 0
PER_ROW = -1
TERNARY, TWO_BITS, FOUR_BITS, EIGHT_BITS = 3, 4, 15, 255
SIDECAR = "ternary.json"
FORMAT_VERSION = 1

# Uniform 4-level quantizer of a Gaussian: step 0.996 σ (Max 1960, table II); mean|W| = 0.798 σ.
_TWO_BIT_STEP = 0.996 / 0.798
# Below this fp16 has too few bits left for a scale, and the group becomes zero. Rounding a scale must not cost the
# largest code: half a step in `levels // 2` has to be more than the error of the subnormal number.
_SMALLEST_SCALE = {3: 2.0**-20, 4: 2.0**-20, 15: 2.0**-20, 255: 2.0**-16}
_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Layout:
    """How one matrix is quantized.

    Attributes:
        group_size: input columns that share a scale; 0 = the whole tensor, −1 = each row.
        levels: 3 (ternary), 4 (two bits), 15 (four bits) or 255 (eight bits, for embeddings).
    """

    group_size: int = PER_TENSOR
    levels: int = TERNARY


def absmean_ternary(weight: Tensor, group_size: int = PER_TENSOR) -> tuple[Tensor, Tensor]:
    """Rounds to {−1, 0, 1} by the mean absolute value: Ŵ = clip(round(W / γ), −1, 1), γ = mean|W|.

    Args:
        weight: [out, in], any float type.
        group_size: input columns that share γ; 0 = whole tensor, −1 = each row.

    Returns:
        codes int8 [out, in], and γ float32 [out or 1, groups], exactly representable in fp16.

    Raises:
        ValueError: not a matrix, or the group size does not divide the columns, or γ leaves the range of fp16.

    Source: arXiv:2402.17764, equations 1–3.
    """
    return quantize(weight, Layout(group_size, TERNARY))


def quantize(weight: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Codes int8 [out, in] and scales float32 [out or 1, groups] of ``weight`` [out, in] (see `absmean_ternary`)."""
    grouped, scale = _grouped_and_scale(weight, layout)
    return _round(grouped, scale, layout.levels).to(torch.int8).view(weight.shape), scale


def dequantize(codes: Tensor, scale: Tensor, layout: Layout) -> Tensor:
    """The float32 weights [out, in] that ``codes`` and ``scale`` stand for."""
    grouped = _group(codes.float(), layout.group_size)
    if layout.levels == TWO_BITS:
        grouped = grouped + 0.5
    return (grouped * scale[..., None]).view(codes.shape)


def codes_of(weight: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Codes and scales of a matrix that already holds dequantized values; the inverse of `dequantize`.

    Every group that came out of `quantize` holds its largest code (3 and 15 levels) or its smallest (4 levels),
    so its scale can be read off the values without loss.

    Raises:
        ValueError: some value is not exactly a scale times a code, or a scale is not an fp16 number.
    """
    grouped = _group(weight.float(), layout.group_size)
    magnitude = grouped.abs()
    scale = magnitude.amin(-1) * 2 if layout.levels == TWO_BITS else magnitude.amax(-1) / (layout.levels // 2)
    codes = _round(grouped, scale, layout.levels).to(torch.int8).view(weight.shape)
    wrong = int((dequantize(codes, scale, layout) != weight.float()).sum())
    if wrong or not torch.equal(scale, scale.half().float()):
        raise ValueError(f"{wrong} of {weight.numel()} values are not an fp16 scale times a code at {layout}")
    return codes, scale


def fitting_group_size(in_features: int, wanted: int) -> int:
    """``wanted`` where it divides the columns, else one scale per row."""
    return wanted if wanted <= 0 or in_features % wanted == 0 else PER_ROW


class TernaryLinear(nn.Linear):
    """A linear layer whose forward sees γ·{−1, 0, 1} and whose backward reaches the latent weights.

    ``weight`` is the latent weight while training, and the dequantized weight once ``frozen``. Names and shapes of
    the state dict are those of ``nn.Linear``.

    Attributes:
        layout: group size and levels.
        activation_bits: 8 = inputs rounded per token to int8; 0 = left alone.
        blend: λ; 0 = full precision, 1 = quantized.
        frozen: weights are final; nothing is rounded any more.
    """

    layout: Layout
    activation_bits: int
    blend: float
    frozen: bool

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, layout: Layout, *, activation_bits: int = 8, blend: float = 1.0
    ) -> TernaryLinear:
        """Turns ``linear`` into a ternary layer in place: every reference, tie and hook to it stays valid."""
        if activation_bits not in (0, 8):
            raise ValueError(f"activation_bits must be 0 or 8, got {activation_bits}")
        if type(linear) not in (nn.Linear, cls):
            raise ValueError(f"{type(linear).__name__} has a forward of its own and cannot become {cls.__name__}")
        _group(linear.weight, layout.group_size)
        linear.__class__ = cls
        assert isinstance(linear, TernaryLinear)
        linear.layout, linear.activation_bits, linear.blend, linear.frozen = layout, activation_bits, blend, False
        return linear

    def to_linear(self) -> nn.Linear:
        """Back to a plain linear layer in place, with the weights as they are."""
        for name in ("layout", "activation_bits", "blend", "frozen"):
            delattr(self, name)
        self.__class__ = nn.Linear  # type: ignore[assignment]
        return self

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        weight = self.weight
        if self.blend > 0:
            if not self.frozen:
                weight = _WeightEstimator.apply(weight, self.layout, self.blend)
            if self.activation_bits and (self.blend < 1 or torch.is_grad_enabled()):
                input = _ActivationEstimator.apply(input, self.blend)
            elif self.activation_bits:
                input = fake_quantize_activations(input)  # the estimator's bookkeeping costs a decoded token a tenth
        return F.linear(input, weight, self.bias)

    @torch.no_grad()
    def freeze(self) -> None:
        """Replaces the latent weight by its quantized value; the blend is then 1 and rounding is over."""
        if not self.frozen:
            self.weight.copy_(dequantize(*quantize(self.weight, self.layout), self.layout))
        self.blend, self.frozen = 1.0, True

    @torch.no_grad()
    def thaw(self) -> None:
        """Makes a frozen ternary layer trainable again without moving a code or (beyond fp16) a scale.

        mean|γ·Ŵ| is γ times the share of non-zeros, so the latent weight is stretched by the inverse of that share.
        """
        if self.frozen and self.layout.levels == TERNARY:
            grouped = _group(self.weight, self.layout.group_size)
            share = (grouped != 0).float().mean(-1, keepdim=True).clamp(min=1 / grouped.shape[-1])
            self.weight.copy_((grouped / share).view_as(self.weight))
        self.frozen = False

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{super().extra_repr()}, {self.layout}, activation_bits={self.activation_bits}"


def fake_quantize_activations(activations: Tensor) -> Tensor:
    """Rounds each token to int8 by its largest value and back: [..., d] → [..., d], same type (absmax, eq. 4).

    The largest value times its scale is 127 up to rounding, so nothing needs clamping. All arithmetic is fp32 and in
    place on one copy: mixed types take torch's slow path on a CPU, and a second copy costs more than it computes.
    """
    scale = activations.abs().amax(-1, keepdim=True).float().clamp_(min=1e-5).reciprocal_().mul_(127.0)
    if activations.dtype == torch.float32:
        return (activations * scale).round_().div_(scale)
    return activations.float().mul_(scale).round_().div_(scale).to(activations.dtype)


def ternary_linears(model: nn.Module) -> dict[str, TernaryLinear]:
    """The ternary layers of ``model`` by the name of their weight."""
    return {f"{path}.weight": module for path, module in model.named_modules() if isinstance(module, TernaryLinear)}


def freeze(model: nn.Module) -> dict[str, Any]:
    """Freezes every ternary layer of ``model`` and returns the sidecar to be written with `write_sidecar`."""
    layers = ternary_linears(model)
    bits = {layer.activation_bits for layer in layers.values()} or {0}
    if len(bits) > 1:
        raise ValueError(f"layers disagree about the bits of their activations: {sorted(bits)}")
    for layer in layers.values():
        layer.freeze()
    tensors = {name: asdict(layer.layout) for name, layer in sorted(layers.items())}
    return {"format_version": FORMAT_VERSION, "activation_bits": bits.pop(), "tensors": tensors}


@contextmanager
@torch.no_grad()
def rounded(model: nn.Module) -> Iterator[None]:
    """Ternary layers hold their rounded weights for as long as the block runs: equal outputs, no rounding a token."""
    latent = [(layer, layer.weight.clone()) for layer in ternary_linears(model).values() if not layer.frozen]
    blends = [layer.blend for layer, _ in latent]
    try:
        for layer, _ in latent:
            if layer.blend == 1.0:
                layer.freeze()
        yield
    finally:
        for (layer, weight), blend in zip(latent, blends, strict=True):
            layer.weight.copy_(weight)
            layer.frozen, layer.blend = False, blend


def write_sidecar(folder: Path, sidecar: Mapping[str, Any]) -> None:
    """Writes ``ternary.json`` beside the weights."""
    (Path(folder) / SIDECAR).write_text(json.dumps(sidecar, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_sidecar(folder: Path) -> dict[str, Any] | None:
    """``ternary.json`` of a checkpoint folder with `Layout` values, None where there is none.

    Raises:
        HandoffError: it cannot be read, or was written in a format that is not known here.
    """
    path = Path(folder) / SIDECAR
    if not path.exists():
        return None
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
        version, bits = int(sidecar["format_version"]), int(sidecar["activation_bits"])
        layouts = {str(name): Layout(**entry) for name, entry in sidecar["tensors"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HandoffError(f"{path} is not a description of ternary tensors: {error!r}") from error
    if version != FORMAT_VERSION:
        raise HandoffError(f"{path} has format version {version}, this program reads {FORMAT_VERSION}; update it")
    return {"format_version": version, "activation_bits": bits, "tensors": layouts}


def attach(model: nn.Module, folder: Path) -> nn.Module:
    """Turns the tensors that ``folder``'s sidecar names into frozen ternary layers; without a sidecar does nothing.

    Raises:
        HandoffError: a named tensor is missing, is no linear layer, or does not hold scale × code.
    """
    sidecar = read_sidecar(folder)
    if sidecar is None:
        return model
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, layout in sidecar["tensors"].items():
        module = modules.get(name.removesuffix(".weight"))
        if not isinstance(module, nn.Linear):
            raise HandoffError(f"{folder}: {SIDECAR} names {name}, but the model has no such linear layer")
        try:
            codes_of(module.weight.detach(), layout)
        except ValueError as error:
            raise HandoffError(f"{folder}: tensor {name} is not quantized as {SIDECAR} says: {error}") from error
        TernaryLinear.from_linear(module, layout, activation_bits=sidecar["activation_bits"]).frozen = True
    return model


def is_exactly_ternary(folder: Path) -> bool:
    """True when every tensor listed as ternary holds exactly γ·{−1, 0, 1} in the file, and there is at least one."""
    sidecar = read_sidecar(folder)
    if sidecar is None:
        return False
    ternary = {name: layout for name, layout in sidecar["tensors"].items() if layout.levels == TERNARY}
    with safe_open(Path(folder) / "model.safetensors", framework="pt") as file:
        if not ternary or not set(ternary) <= set(file.keys()):
            return False
        try:
            for name, layout in ternary.items():
                codes_of(file.get_tensor(name), layout)
        except ValueError:
            return False
    return True


class _WeightEstimator(torch.autograd.Function):
    """Forward: W + λ(γ·Ŵ − W). Backward: the identity, which is right in γ's unit because γ·Ŵ ≈ W."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, layout: Layout, blend: float) -> Tensor:
        grouped, scale = _grouped_and_scale(weight, layout)
        quantized = _round(grouped, scale, layout.levels)
        if layout.levels == TWO_BITS:
            quantized += 0.5
        quantized *= scale[..., None]
        if blend < 1:
            quantized = torch.lerp(grouped, quantized, blend)
        return quantized.view(weight.shape).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


class _ActivationEstimator(torch.autograd.Function):
    """Forward: x + λ(x̂ − x). Backward: the identity."""

    @staticmethod
    def forward(ctx: Any, activations: Tensor, blend: float) -> Tensor:
        quantized = fake_quantize_activations(activations)
        return quantized if blend >= 1 else torch.lerp(activations, quantized, blend)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _group(weight: Tensor, group_size: int) -> Tensor:
    """[out, in] → [out or 1, groups, columns], a view."""
    if weight.ndim != 2:
        raise ValueError(f"a matrix is expected, got shape {tuple(weight.shape)}")
    if group_size == PER_TENSOR:
        return weight.reshape(1, 1, -1)
    columns = weight.shape[1] if group_size == PER_ROW else group_size
    if columns < 1 or weight.shape[1] % columns:
        raise ValueError(f"group size {group_size} does not divide the {weight.shape[1]} columns")
    return weight.reshape(weight.shape[0], -1, columns)


def _grouped_and_scale(weight: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    grouped = _group(weight.float(), layout.group_size)
    if layout.levels in (FOUR_BITS, EIGHT_BITS):
        scale = grouped.abs().amax(-1) / (layout.levels // 2)
    elif layout.levels in (TERNARY, TWO_BITS):
        scale = grouped.abs().mean(-1)
        scale = scale * _TWO_BIT_STEP if layout.levels == TWO_BITS else scale
    else:
        raise ValueError(f"levels must be 3, 4, 15 or 255, got {layout.levels}")
    return grouped, _to_half(scale, _SMALLEST_SCALE[layout.levels])


def _round(grouped: Tensor, scale: Tensor, levels: int) -> Tensor:
    """Codes as floats, a fresh tensor of the grouped shape."""
    # A group without a scale is divided by infinity: its codes are 0.
    divisor = torch.where(scale > 0, scale, torch.inf)[..., None]
    if levels == TWO_BITS:
        return (grouped / divisor).floor_().clamp_(-2, 1)
    return (grouped / divisor).round_().clamp_(-(levels // 2), levels // 2)


def _to_half(scale: Tensor, smallest: float) -> Tensor:
    """Rounded to fp16 and back; what fp16 cannot hold becomes 0 or is refused."""
    if not bool((scale <= _LARGEST_HALF).all()):
        raise ValueError(f"a scale of {float(scale.max())} leaves the range of fp16; the weights are broken")
    return scale.half().float() * (scale >= smallest)

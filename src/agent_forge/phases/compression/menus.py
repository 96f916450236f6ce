"""The options of every tensor: encoded, decoded, and priced by the loss that they should cost.

SeedLM and Hyper-Compression are searched on a sample first. They are encoded in full only where the sample lies
below the curve of the entropy-coded uniform quantizer (fewer bits at equal error); otherwise the reason is kept,
for the report. VPTQ and GPTQ are for matrices whose inputs were seen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent_forge.phases.compression import codecs, ternary_coding, vptq
from agent_forge.phases.compression.allocation import Point
from agent_forge.phases.compression.bitstream import Encoded
from agent_forge.phases.compression.config import CompressionConfig
from agent_forge.phases.compression.sensitivity import predicted_loss, row_sensitivity

_MAX_CODEBOOK_BITS = 0.1  # a weight: a dearer codebook costs more than its better shape gains
_SAMPLE_RUNS, _RUN = 16, 96  # a run is whole blocks of SeedLM at both rates


@dataclass
class Menu:
    """Options of one tensor.

    Attributes:
        lossless: the floor that a roll-back ends at.
        encoded: option → bytes.
        points: option → size and predicted loss.
        shared: codebooks by name that some options need.
    """

    lossless: str
    encoded: dict[str, Encoded] = field(default_factory=dict)
    points: dict[str, Point] = field(default_factory=dict)
    shared: dict[str, bytes] = field(default_factory=dict)

    def weaker(self, option: str) -> str:
        """The next finer rate of the same codec that is on the menu, else the lossless floor."""
        finer: str | None = codecs.weaker(option)
        while finer is not None and finer not in self.encoded:
            finer = codecs.weaker(finer)
        return finer or self.lossless


@dataclass(frozen=True)
class Knowledge:
    """What the options are priced with: roles, Fisher diagonals and Hessians by tensor name.

    ``special_rows`` are those that no option may change, of the tensors that have any; ``exact`` are tensors that no
    option may change at all.
    """

    roles: Mapping[str, str]
    fisher: Mapping[str, Tensor]
    hessians: Mapping[str, Tensor]
    special_rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    exact: Collection[str] = ()


def menu_of(
    name: str, tensor: Tensor, known: Knowledge, config: CompressionConfig
) -> tuple[Menu, list[dict[str, Any]]]:
    """Menu of one tensor, and what was not tried with the reason."""
    exact = ternary_coding.find_levels(tensor) if "ternary" in config.codecs and tensor.numel() > 64 else None
    menu = Menu("ternary/exact" if exact is not None else "plain/native")
    if exact is not None:
        several = exact.scales.numel() > 1 and name not in known.exact
        for option in ("ternary/exact", "ternary/linear8") if several else ("ternary/exact",):
            add(menu, name, tensor, option, known)
        return menu, []
    add(menu, name, tensor, "plain/native", known)
    if not tensor.is_floating_point() or tensor.numel() == 0 or name in known.exact:
        return menu, []
    try_add(menu, name, tensor, "plain/fp16", known)
    if tensor.numel() <= config.small_tensor_weights or tensor.dim() < 2:
        return menu, []
    for option in ("plain/int8", "plain/int4"):
        if "plain" in config.codecs:
            try_add(menu, name, tensor, option, known)
    for codec in ("uniform", "gptq"):
        for rate in codecs.LADDER[codec] if codec in config.codecs else ():
            if codec == "uniform" or name in known.hessians:
                try_add(menu, name, tensor, f"{codec}/{rate}", known)
    skipped = [
        entry for codec in ("seedlm", "hyper") for entry in _try_sampled(menu, name, tensor, known, config, codec)
    ]
    return menu, skipped


def add(menu: Menu, name: str, tensor: Tensor, option: str, known: Knowledge) -> None:
    """Encodes the tensor as ``option`` and prices it.

    Raises:
        ValueError: the codec cannot take this tensor.
    """
    rows = row_sensitivity(known.fisher[name]) if name in known.fisher and tensor.dim() > 1 else None
    encoded = codecs.encode(
        tensor, option, hessian=known.hessians.get(name), row_sensitivity=rows,
        exact_rows=known.special_rows.get(name, ()),
    )  # fmt: skip
    _put(menu, name, tensor, option, encoded, {}, len(encoded.payload), known)


def try_add(menu: Menu, name: str, tensor: Tensor, option: str, known: Knowledge) -> None:
    """As `add`; an option whose range the tensor leaves is simply not on the menu."""
    try:
        add(menu, name, tensor, option, known)
    except ValueError:
        menu.encoded.pop(option, None)


def add_vptq(
    menus: Mapping[str, Menu], tensors: Mapping[str, Tensor], known: Knowledge, generator: torch.Generator
) -> list[dict[str, Any]]:
    """VPTQ for matrices of equal shape together, both rates, codebook bytes spread over them; what was skipped."""
    skipped: list[dict[str, Any]] = []
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name in sorted(menus):
        if name in known.hessians and menus[name].lossless == "plain/native" and name not in known.exact:
            shapes.setdefault(tuple(tensors[name].shape), []).append(name)
    for shape, names in shapes.items():
        for rate, layouts in codecs.VPTQ_LAYOUTS.items():
            count = len(names) * int(np.prod(shape))
            cheap = [layout for layout in layouts if 16 * layout[0] * layout[1] / count <= _MAX_CODEBOOK_BITS]
            vector, centroids = cheap[0] if cheap else layouts[-1]
            bits = 16 * vector * centroids / count
            if not cheap:
                skipped += [
                    {"tensor": n, "option": f"vptq/{rate}", "reason": f"codebook of {bits:.2f} bits"} for n in names
                ]
                continue
            book = f"vptq{rate}-{'x'.join(map(str, shape))}"
            encoded, shared = vptq.encode(
                [tensors[n] for n in names], [known.hessians[n] for n in names],
                name=book, vector=vector, centroids=centroids, generator=generator,
            )  # fmt: skip
            extra = sum(map(len, shared.values())) // len(names)
            for name, one in zip(names, encoded, strict=True):
                size = len(one.payload) + extra
                _put(menus[name], name, tensors[name], f"vptq/{rate}", one, shared, size, known)
    return skipped


def _put(
    menu: Menu, name: str, tensor: Tensor, option: str, encoded: Encoded,
    shared: Mapping[str, bytes], size: int, known: Knowledge,
) -> None:  # fmt: skip
    delta = codecs.decode(encoded, shared).float() - tensor.float()
    if not bool(torch.isfinite(delta).all()):
        raise ValueError(f"{option} gives values that are not finite for {name}")
    menu.encoded[option] = encoded
    menu.shared |= shared
    loss = predicted_loss(known.fisher, name, delta)
    menu.points[option] = Point(option, size, loss if bool(delta.any()) else 0.0)


def _try_sampled(
    menu: Menu, name: str, tensor: Tensor, known: Knowledge, config: CompressionConfig, codec: str
) -> list[dict[str, Any]]:
    """Adds the rates of ``codec`` that can win on a sample; the others with the reason."""
    if codec not in config.codecs:
        return []
    if codec == "seedlm" and tensor.numel() > config.seedlm_max_weights:
        return [{"tensor": name, "option": "seedlm", "reason": f"more than {config.seedlm_max_weights} weights"}]
    curve = _uniform_curve(menu, tensor)
    flat = tensor.detach().float().reshape(-1)
    starts = np.unique(np.linspace(0, max(0, flat.numel() - _RUN), _SAMPLE_RUNS).astype(int))
    sample = torch.cat([flat[start : start + _RUN] for start in starts])
    energy = float(sample.square().sum())
    if curve is None or energy == 0:
        return []
    skipped = []
    for rate in codecs.LADDER[codec]:
        encoded = codecs.encode(sample, f"{codec}/{rate}")
        error = float((codecs.decode(encoded) - sample).square().sum()) / energy
        bits = encoded.bits_per_weight
        rival = float(np.interp(np.log(max(error, 1e-30)), *curve))
        if bits < rival:
            try_add(menu, name, tensor, f"{codec}/{rate}", known)
        else:
            reason = f"{bits:.2f} bits a weight where uniform coding needs {rival:.2f} for the same error"
            skipped.append({"tensor": name, "option": f"{codec}/{rate}", "reason": reason})
    return skipped


def _uniform_curve(menu: Menu, tensor: Tensor) -> tuple[list[float], list[float]] | None:
    """log(relative squared error) ascending, and bits a weight there; None without uniform options."""
    energy = float(tensor.detach().double().square().sum())
    points = []
    for option, encoded in menu.encoded.items():
        if option.startswith("uniform/") and energy > 0:
            delta = codecs.decode(encoded).double() - tensor.double()
            points.append((float(np.log(max(float(delta.square().sum()) / energy, 1e-30))), encoded.bits_per_weight))
    points.sort()
    return ([error for error, _ in points], [bits for _, bits in points]) if points else None

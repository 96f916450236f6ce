"""Codecs one after the other, each behind a gate that measures and can fail.

The baseline is the phase's input before any codec. After each stage the retention is measured; below the bound the
stage is rolled back group by group (role and layer), the one of largest predicted damage first: to the next finer
rate of its codec, and from the finest to the lossless floor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from agent_forge.model.roles import layer_index
from agent_forge.phases.compression import codecs
from agent_forge.phases.compression.allocation import Point, allocate
from agent_forge.phases.compression.menus import Menu
from agent_forge.phases.compression.quality import Bench, Meter

STAGES = ("plain", "ternary", "uniform", "gptq", "vptq", "seedlm", "hyper")
"""From the mildest codec to the one that needs most trust."""


@dataclass
class Cascade:
    """Plans under measurement.

    Attributes:
        bench: the model.
        meter: of the selection split.
        menus: by tensor.
        roles: by tensor.
        stop: called between measurements; raises when the user wants to stop.
        records: what each stage measured and rolled back.
    """

    bench: Bench
    meter: Meter
    menus: Mapping[str, Menu]
    roles: Mapping[str, str]
    stop: Callable[[], None]
    records: list[dict[str, Any]] = field(default_factory=list)

    def values(self, plan: Mapping[str, str]) -> dict[str, Tensor]:
        """Decoded tensors of a plan."""
        return {name: codecs.decode(self.menus[name].encoded[o], self.menus[name].shared) for name, o in plan.items()}

    def increase(self, plan: Mapping[str, str]) -> float:
        """Bits per byte that a plan costs on the selection split."""
        self.stop()
        self.bench.load(self.values(plan))
        return self.meter.bits_per_byte() - self.meter.reference

    def choose(self, *, allowed: float, rounds: int, max_bytes: int | None) -> dict[str, str]:
        """The smallest plan whose measured increase stays within ``allowed`` bits per byte.

        Predicted losses are only proportional to real ones, so the bound on them is corrected by each measurement.
        """
        menus = {name: list(menu.points.values()) for name, menu in self.menus.items()}
        best = {name: menu.lossless for name, menu in self.menus.items()}
        smallest = self.size(best)
        if allowed <= 0:
            return best
        bound = allowed  # 1 nat a token is about half a bit a byte: a start, corrected at once
        for _ in range(rounds):
            points = allocate(menus, max_loss=bound, max_bytes=max_bytes)
            plan = {name: point.option for name, point in points.items()}
            measured, size = self.increase(plan), sum(point.bytes for point in points.values())
            if measured <= allowed and size < smallest:
                best, smallest = plan, size
            reached = max_bytes is not None and size <= max_bytes
            if measured <= allowed and (reached or measured > 0.85 * allowed):
                break
            predicted = sum(point.loss for point in points.values())
            bound = min(bound, predicted) if measured > allowed else bound
            bound *= min(8.0, max(0.1, 0.93 * allowed / max(measured, 1e-3 * allowed)))
        return best

    def size(self, plan: Mapping[str, str]) -> int:
        """Bytes of the tensors of a plan."""
        return sum(self.menus[name].points[option].bytes for name, option in plan.items())

    def run_stages(self, wanted: Mapping[str, str], *, min_retention: float) -> dict[str, str]:
        """Applies a plan codec by codec behind the gate.

        Returns:
            The plan that passed; `records` says what was rolled back.
        """
        plan = {name: menu.lossless for name, menu in self.menus.items()}
        for stage in STAGES:
            members = [n for n, o in wanted.items() if o.partition("/")[0] == stage and o != self.menus[n].lossless]
            if not members:
                continue
            plan |= {name: wanted[name] for name in members}
            undone: list[dict[str, Any]] = []
            while True:
                increase = self.increase(plan)
                bits = self.meter.reference + increase
                retention = self.meter.retention(bits)
                lossy = [name for name in members if plan[name] != self.menus[name].lossless]
                if retention >= min_retention or not lossy:
                    break
                undone.append(self._roll_back(plan, lossy, retention))
            record = {"stage": stage, "tensors": len(members), "bits_per_byte": bits}
            self.records.append(record | {"retention_fraction": retention, "rolled_back": undone})
        return plan

    def _roll_back(self, plan: dict[str, str], members: list[str], retention: float) -> dict[str, Any]:
        """Moves the group of largest predicted damage to its next weaker rate, in place."""
        groups: dict[str, list[str]] = {}
        for name in members:
            layer = layer_index(name)
            groups.setdefault(self.roles.get(name, "other") + ("" if layer is None else f"/{layer}"), []).append(name)

        def damage(group: str) -> tuple[float, str]:
            return sum(self._point(name, plan).loss for name in groups[group]), group

        worst = max(groups, key=damage)
        before = sorted({plan[name] for name in groups[worst]})
        for name in groups[worst]:
            plan[name] = self.menus[name].weaker(plan[name])
        after = sorted({plan[name] for name in groups[worst]})
        return {"group": worst, "from": before, "to": after, "retention_fraction": retention}

    def _point(self, name: str, plan: Mapping[str, str]) -> Point:
        return self.menus[name].points[plan[name]]

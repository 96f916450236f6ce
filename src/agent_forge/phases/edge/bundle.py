"""The bundle: the agent as an ONNX graph with all that it brings, and how fast it is on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

from agent_forge.evaluation.processor import usable_cores
from agent_forge.model.checkpoint import load_model
from agent_forge.phases.edge.config import EdgeConfig
from agent_forge.phases.edge.export_onnx import export_onnx
from agent_forge.phases.edge.onnx_parity import double_parity
from agent_forge.phases.edge.speed import ONNX, TORCH, measure
from agent_forge.phases.edge.targets import TARGETS, fit


def bundle(folder: Path, out: Path, flavour: Literal["cpu", "web"]) -> tuple[Path, dict[str, float]]:
    """Writes the bundle of a checkpoint folder.

    Returns:
        The folder, and how equal the graph is: ``edge/onnx_equal_fraction`` (greedy tokens),
        ``edge/onnx_max_logit_difference``, ``edge/onnx_exact_max_logit_difference`` (the same, and where inputs are
        rounded that of both in double) and ``edge/onnx_bytes``.

    Raises:
        ConfigError, HandoffError: as `export_onnx`.
    """
    shutil.rmtree(out, ignore_errors=True)
    facts = export_onnx(folder, out, flavour)
    exact = double_parity(*load_model(folder), out)
    return out, {
        "edge/onnx_equal_fraction": facts["equal_tokens"] / facts["compared_tokens"],
        "edge/onnx_max_logit_difference": float(facts["max_logit_difference"]),
        "edge/onnx_exact_max_logit_difference": float(
            exact.get("double_max_logit_difference", facts["max_logit_difference"])
        ),
        "edge/onnx_bytes": float(facts["bytes"]),
    }


def measured_speed(folder: Path, packed: Path, config: EdgeConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Both forms of the agent, each in a process of its own, and how the better one fits the target.

    Returns:
        Figures for the gates, and the verdicts as JSON. They differ from run to run, so they go into no artifact.
    """
    target = TARGETS[config.target]
    threads = min(usable_cores(), target.cores)
    options = {"threads": threads, "new_tokens": config.bench_tokens, "repeats": config.bench_repeats}
    speeds = [measure(folder, TORCH, **options), measure(packed, ONNX, **options)]
    found = fit(target, speeds)
    torch_speed, onnx_speed = speeds
    return {
        "edge/target_met": float(found.met),
        "edge/first_token_seconds": onnx_speed.first_token_seconds,
        "edge/tokens_per_second": onnx_speed.tokens_per_second,
        "edge/speedup_over_torch": onnx_speed.tokens_per_second / torch_speed.tokens_per_second,
        "edge/memory_bytes": float(onnx_speed.memory_bytes),
        "edge/bundle_bytes": float(onnx_speed.size_bytes),
    }, found.to_json()

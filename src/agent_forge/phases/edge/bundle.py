"""The bundle: the agent as an ONNX graph with all that it brings, what it can do, and how fast it is here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from agent_forge.phases.edge.config import EdgeConfig
from agent_forge.phases.edge.export_onnx import export_onnx
from agent_forge.phases.edge.judgement import Judgement
from agent_forge.phases.edge.onnx_model import GraphModel
from agent_forge.phases.edge.speed import ONNX, TORCH, measure
from agent_forge.phases.edge.targets import TARGETS, fit


def bundle(
    folder: Path, out: Path, config: EdgeConfig, judgement: Judgement, agent: PreTrainedModel
) -> tuple[Path, dict[str, float]]:
    """Writes the bundle of a checkpoint folder, and has it sit the exam.

    Args:
        folder: the checkpoint.
        out: where the bundle goes; what is there is replaced.
        config: of the phase.
        judgement: knows the questions.
        agent: the checkpoint's model.

    Returns:
        The folder, and how equal the graph is: ``edge/onnx_equal_fraction`` (greedy tokens, with and without the
        experts of its design), ``edge/onnx_max_logit_difference``, ``edge/onnx_bytes``, and the figures of `examined`.

    Raises:
        ConfigError, HandoffError: as `export_onnx`.
    """
    shutil.rmtree(out, ignore_errors=True)
    facts = export_onnx(folder, out, config.flavour)
    equal, compared = (facts[name] + facts.get(f"experts_{name}", 0) for name in ("equal_tokens", "compared_tokens"))
    return out, {
        "edge/onnx_equal_fraction": equal / compared,
        "edge/onnx_max_logit_difference": float(facts["max_logit_difference"]),
        "edge/onnx_bytes": float(facts["bytes"]),
        **examined(out, agent, judgement, config.bundle_questions),
    }


def examined(packed: Path, agent: PreTrainedModel, judgement: Judgement, count: int) -> dict[str, float]:
    """Asks bundle and model the same questions of the test split about the agent's tools, which both really call.

    Args:
        packed: the bundle.
        agent: the model that it was made from.
        judgement: knows the questions.
        count: of them; 0 = none.

    Returns:
        ``edge/bundle_right_answer`` and ``edge/model_right_answer`` (shares), left out where nothing was asked, and
        ``edge/bundle_points_lost``: points (0–100) of right answers that the bundle has less.
    """
    if not count or not judgement.tools:
        return {"edge/bundle_points_lost": 0.0}
    right = [judgement.answered(model, "test", count).right for model in (GraphModel(packed), agent)]
    bundled, own = (sum(each) / len(each) for each in right)
    return {
        "edge/bundle_right_answer": bundled,
        "edge/model_right_answer": own,
        "edge/bundle_points_lost": 100 * (own - bundled),
    }


def measured_speed(folder: Path, packed: Path, config: EdgeConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Both forms of the agent, each in a process of its own, and how the better one fits the target.

    Returns:
        Figures for the gates, and the verdicts as JSON. They differ from run to run, so they go into no artifact.
    """
    options = {"new_tokens": config.bench_tokens, "repeats": config.bench_repeats}
    speeds = [measure(folder, TORCH, **options), measure(packed, ONNX, **options)]
    found = fit(TARGETS[config.target], speeds)
    torch_speed, onnx_speed = speeds
    return {
        "edge/target_met": float(found.met),
        "edge/first_token_seconds": onnx_speed.first_token_seconds,
        "edge/tokens_per_second": onnx_speed.tokens_per_second,
        "edge/speedup_over_torch": onnx_speed.tokens_per_second / torch_speed.tokens_per_second,
        "edge/memory_bytes": float(onnx_speed.memory_bytes),
        "edge/bundle_bytes": float(onnx_speed.size_bytes),
    }, found.to_json()

"""The fingerprint of a phase run: equal fingerprints give equal outputs, so outputs are reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_forge.config import ForgeConfig
from agent_forge.contract import Artifact, Artifacts, Declaration, digest_of
from agent_forge.pipeline.ingest import INGEST
from agent_forge.pipeline.plan import Step


def input_digests(inputs: Artifacts) -> dict[str, str | list[str]]:
    """Digests by handoff name; a list where the kind is plural (order counts)."""
    return {
        name: value.digest if isinstance(value, Artifact) else [artifact.digest for artifact in value]
        for name, value in sorted(inputs.items())
    }


def fingerprint(
    phase: Declaration,
    config: Mapping[str, Any],
    inputs: Artifacts,
    *,
    seed: int,
    device: str,
    threads: int,
    extra: Sequence[str] = (),
) -> str:
    """sha256 over phase, version, config, input digests, seed, device class and threads.

    Args:
        config: the phase's own part of the configuration, as JSON values.
        device: "cpu" or "cuda:0"; only the class before the colon counts.
        threads: of the phase, resolved: sums are split among them, so another number gives other last bits. 0 for
            a step that computes no tensor.
        extra: further digests that decide the output (the bytes of source files, for the data step).
    """
    return digest_of(
        {
            "phase": phase.name,
            "version": phase.version,
            "config": config,
            "inputs": input_digests(inputs),
            "seed": seed,
            "device": device.split(":")[0],
            "extra": list(extra),
            **({"threads": threads} if threads else {}),
        }
    )


def step_fingerprint(
    step: Step, config: ForgeConfig, inputs: Artifacts, *, device: str, threads: int, sources: Sequence[str]
) -> str:
    """`fingerprint` of a step of a plan; only the data step depends on the bytes of the source files.

    Args:
        inputs: what the steps before gave to this one.
        device: that the phase runs on.
        threads: that the phase runs with.
        sources: what `source_digests` gives for the configuration.
    """
    part = config.part(step.name).model_dump(mode="json")
    if step.name == INGEST.name:
        return fingerprint(step.phase, part, inputs, seed=config.seed, device=device, threads=0, extra=sources)
    return fingerprint(step.phase, part, inputs, seed=config.seed, device=device, threads=threads)

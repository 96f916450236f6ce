"""The fingerprint of a phase run: equal fingerprints give equal outputs, so outputs are reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_forge.contract import Artifact, Artifacts, Declaration, digest_of


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
    extra: Sequence[str] = (),
) -> str:
    """sha256 over phase, version, config, input digests, seed and device class.

    Args:
        config: the phase's own part of the configuration, as JSON values.
        device: "cpu" or "cuda:0"; only the class before the colon counts.
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
        }
    )

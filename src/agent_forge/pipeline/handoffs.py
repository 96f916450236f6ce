"""Handoff rules: what must be true of the files at each seam. Presets name them per phase.

Each rule is one small function whose message says what to do; `RULES` is the readable table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from agent_forge.contract import END_THINK, THINK, Artifact, Artifacts, many
from agent_forge.errors import HandoffError


class _Paths(Protocol):
    def path(self, artifact: Artifact) -> Any: ...


def _models(outputs: Artifacts) -> list[tuple[str, Artifact]]:
    return [
        (name, artifact)
        for name in outputs
        for artifact in many(outputs, name)
        if artifact.kind == "checkpoint" or artifact.kind == "checkpoints"
    ]


def three_specialists(outputs: Artifacts, context: _Paths) -> None:
    """Exactly three specialists and one trunk."""
    found = len(many(outputs, "specialists"))
    if found != 3 or "trunk" not in outputs:
        raise HandoffError(f"phase cognate gave {found} specialists and {'a' if 'trunk' in outputs else 'no'} trunk")


_NOT_ARCHITECTURE = ("halting_threshold", "initializer_range", "use_cache", "dtype", "torch_dtype")
"""Keys of config.json that decide no shape and no operation; training itself moves the threshold (premortem C1)."""


def same_architecture(outputs: Artifacts, context: _Paths) -> None:
    """All checkpoints have the same config.json, apart from names, versions and what is no architecture."""
    first: tuple[str, dict[str, Any]] | None = None
    for name, artifact in _models(outputs):
        config = json.loads((context.path(artifact) / "config.json").read_text(encoding="utf-8"))
        shape = {
            key: value
            for key, value in config.items()
            if not key.startswith(("_", "transformers")) and key not in _NOT_ARCHITECTURE
        }
        if first is None:
            first = name, shape
        for key in sorted(first[1].keys() | shape.keys()):
            if first[1].get(key) != shape.get(key):
                raise HandoffError(
                    f"{key} is {first[1].get(key)!r} in config.json of {first[0]} and {shape.get(key)!r} in {name}; "
                    "checkpoints of one phase must share one architecture"
                )


def same_tokenizer(outputs: Artifacts, context: _Paths) -> None:
    """All checkpoints have a tokenizer.json of the same digest."""
    seen = {artifact.files.get("tokenizer.json", ("missing", 0))[0]: name for name, artifact in _models(outputs)}
    if len(seen) > 1 or "missing" in seen:
        raise HandoffError(f"the tokenizers of the checkpoints differ or are missing: {sorted(seen)}")


def different_weights(outputs: Artifacts, context: _Paths) -> None:
    """No two checkpoints have the same weights."""
    digests = [artifact.files["model.safetensors"][0] for _, artifact in _models(outputs)]
    if len(set(digests)) < len(digests):
        raise HandoffError("two checkpoints have identical weights; raise cognate's branch tokens or its learning rate")


def has_facts(*names: str) -> Callable[[Artifacts, _Paths], None]:
    """A rule: every specialist carries these facts."""

    def rule(outputs: Artifacts, context: _Paths) -> None:
        group = "specialists" if "specialists" in outputs else "model"
        for artifact in many(outputs, group):
            absent = [name for name in names if name not in artifact.facts]
            if absent:
                raise HandoffError(f"a checkpoint of {group} lacks the facts {', '.join(absent)}")

    return rule


def exactly_ternary(outputs: Artifacts, context: _Paths) -> None:
    """There are ternary tensors, and each holds γ·{−1, 0, 1} and nothing else; the sidecar names the others."""
    from agent_forge.model.ternary import is_exactly_ternary

    for artifact in many(outputs, "model"):
        if not is_exactly_ternary(context.path(artifact)):
            raise HandoffError("the phase gave no ternary tensor, or one with more than three values")


def thought_tokens(outputs: Artifacts, context: _Paths) -> None:
    """The tokenizer has the marks of a thought, the embedding has rows for them, and the resize is recorded."""
    for artifact in many(outputs, "model"):
        folder = context.path(artifact)
        recorded = artifact.facts.get("thought_tokens", {})
        tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        ids = {token["content"]: token["id"] for token in tokens}
        found = (ids.get(THINK), ids.get(END_THINK))
        if found != (recorded.get("opening"), recorded.get("closing")) or None in found:
            raise HandoffError(f"the tokenizer has {found} for {THINK} and {END_THINK}, the manifest says {recorded}")
        rows = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])
        if rows <= max(found):
            raise HandoffError(f"the model has {rows} rows, its thought tokens are {found}")


def one_forge_file(outputs: Artifacts, context: _Paths) -> None:
    """The agent is one `.forge` file, and the experts that its design asks for fit the weights in it."""
    from agent_forge.pipeline.resolve import load_agent

    for artifact in many(outputs, "agent"):
        if [name for name in artifact.files if name.endswith(".forge")] != list(artifact.files):
            raise HandoffError(f"the agent should be one .forge file, and has {', '.join(artifact.files)}")
        for name in artifact.files:
            for expert, reason in load_agent(context.path(artifact) / name).left_out.items():
                raise HandoffError(f"{name}: the design asks for the expert {expert}, which cannot be used: {reason}")


def tool_manifest(outputs: Artifacts, context: _Paths) -> None:
    """The agent brings ``tools.json``, every tool of it can be made, and what they look up is there."""
    from agent_forge.agent.toolbox import Toolbox

    for artifact in many(outputs, "model"):
        toolbox = Toolbox.load(context.path(artifact))
        if toolbox is None or toolbox.knowledge is None:
            raise HandoffError("phase baking gave a checkpoint without tools.json or without knowledge.json")


def runnable_bundle(outputs: Artifacts, context: _Paths) -> None:
    """The bundle has its graph, what a runner must know about it, and a tokenizer; it brings the agent's tools."""
    for artifact in many(outputs, "bundle"):
        known = (
            json.loads((context.path(artifact) / "onnx.json").read_text("utf-8"))
            if "onnx.json" in artifact.files
            else {}
        )
        wanted = {str(known.get("file")), "onnx.json", "tokenizer.json"}
        if "tools.json" in (files := [name for model in many(outputs, "model") for name in model.files]):
            wanted |= {"tools.json"} | ({"knowledge.json"} & set(files))
        if missing := sorted(wanted - set(artifact.files)):
            raise HandoffError(f"phase edge gave a bundle without {', '.join(missing)}")


RULES: Mapping[str, Callable[[Artifacts, _Paths], None]] = {
    "three_specialists": three_specialists,
    "same_architecture": same_architecture,
    "same_tokenizer": same_tokenizer,
    "different_weights": different_weights,
    "specialist_facts": has_facts("specialization", "final_loss", "seed", "param_count", "tokens_seen", "data_digest"),
    "champion_facts": has_facts("fitness", "merge_technique", "generations"),
    "thought_tokens": thought_tokens,
    "exactly_ternary": exactly_ternary,
    "tool_manifest": tool_manifest,
    "runnable_bundle": runnable_bundle,
    "one_forge_file": one_forge_file,
}


def check_handoffs(names: tuple[str, ...], outputs: Artifacts, context: _Paths) -> None:
    """Applies the named rules.

    Raises:
        HandoffError: the first rule that does not hold, or an unknown rule.
    """
    for name in names:
        if name not in RULES:
            raise HandoffError(f"unknown handoff rule {name!r}; rules: {', '.join(RULES)}")
        RULES[name](outputs, context)

"""The whole configuration: one field per phase, presets as complete YAML files, overrides by path.

Unknown keys, values out of range and unknown presets raise `ConfigError` with one sentence; no
configuration ever names code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent_forge.data.config import DataConfig
from agent_forge.errors import ConfigError
from agent_forge.phases import ORDER
from agent_forge.phases.baking.config import BakingConfig
from agent_forge.phases.bitnet.config import BitnetConfig
from agent_forge.phases.cognate.config import CognatePhaseConfig
from agent_forge.phases.compression.config import CompressionConfig
from agent_forge.phases.edge.config import EdgeConfig
from agent_forge.phases.evomerge.config import EvomergeConfig
from agent_forge.phases.forge.config import ForgePhaseConfig
from agent_forge.phases.quietstar.config import QuietstarConfig

PRESETS = ("smoke", "demo", "small", "base25m")
_STEPS = ("data", *ORDER)
"""What gates, handoff rules, limits and fallbacks can be about."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Gate(_Model):
    """One measured condition at the end of a phase."""

    metric: str = Field(description="Name under which the phase reports the figure; the phase's page names the split.")
    comparison: Literal["<", "<=", ">", ">=", "=="] = Field(description="How measured and bound are compared.")
    bound: float = Field(description="The bound, in the unit of the metric.")
    severity: Literal["block", "warn"] = Field(
        default="block", description="`block` stops the run (exit code 3), `warn` is shown and recorded."
    )
    why: str = Field(description="One sentence: what this protects.")


class Limits(_Model):
    """What one phase may use before it is ended."""

    seconds: Annotated[float, Field(gt=0)] = Field(
        default=3600.0, description="Wall-clock seconds of one phase; its process is ended after that."
    )
    memory_gib: Annotated[float, Field(gt=0)] = Field(
        default=16.0, description="Resident memory of one phase in GiB; its process is ended above it."
    )


class Retention(_Model):
    """What storage keeps."""

    checkpoints: int = Field(default=3, ge=1, description="Training states kept per phase run.")
    sessions: int = Field(default=50, ge=1, description="Sessions kept; running and pinned ones do not count.")
    days: float = Field(default=30.0, gt=0, description="Age in days after which `sessions gc` takes a session.")


class ForgeConfig(_Model):
    """Everything that decides a run."""

    preset: str = Field(description="Name of the preset that this configuration started from.")
    about: str = Field(default="", description="One sentence: what this configuration is for.")
    seed: int = Field(default=42, ge=0, lt=2**31, description="Seed from which every generator of the run derives.")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="Where the models live.")
    threads: int = Field(default=0, ge=0, le=256, description="CPU threads of one phase; 0 = all cores.")
    phases: tuple[str, ...] = Field(description="The phases of this run, in any order.")
    data: DataConfig = Field(description="Where the text comes from and how it is split.")
    cognate: CognatePhaseConfig = Field(description="Phase 1: pretraining.")
    evomerge: EvomergeConfig = Field(description="Phase 2: evolutionary merging.")
    quietstar: QuietstarConfig = Field(description="Phase 3: thinking before answering.")
    bitnet: BitnetConfig = Field(description="Phase 4: 1.58-bit weights.")
    forge: ForgePhaseConfig = Field(description="Phase 5: curriculum training of the ternary model.")
    baking: BakingConfig = Field(description="Phase 6: tools and a persona.")
    edge: EdgeConfig = Field(description="Phase 7: pruning, experts, design, export.")
    compression: CompressionConfig = Field(description="Phase 8: one tiny file.")
    gates: Mapping[str, tuple[Gate, ...]] = Field(description="Gates by phase.")
    handoffs: Mapping[str, tuple[str, ...]] = Field(description="Handoff rules by phase; see pipeline/handoffs.py.")
    limits: Mapping[str, Limits] = Field(default_factory=dict, description="Limits by phase; others get the defaults.")
    fallbacks: Mapping[str, Literal["stop", "skip"]] = Field(
        default_factory=dict,
        description="What a failed phase leads to: `stop`, or `skip` where the plan still fits (recorded as degraded).",
    )
    retention: Retention = Field(default_factory=Retention, description="What storage keeps.")

    def limit(self, phase: str) -> Limits:
        """The limits of a phase."""
        return self.limits.get(phase, Limits())

    def part(self, phase: str) -> BaseModel:
        """The part of the configuration that a phase is given."""
        part = getattr(self, phase, None)
        if not isinstance(part, BaseModel):
            raise ConfigError(f"there is no configuration for phase {phase!r}")
        return part


def load_preset(name: str) -> dict[str, Any]:
    """The preset as plain values.

    Raises:
        ConfigError: no preset of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}{_did_you_mean(name, PRESETS)}; presets: {', '.join(PRESETS)}")
    text = files("agent_forge").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def build_config(
    preset: str = "demo",
    overrides: Iterable[str] = (),
    *,
    sources: Iterable[str] = (),
    held_out: Iterable[str] = (),
    phases: Iterable[str] = (),
) -> ForgeConfig:
    """A preset with overrides.

    Args:
        preset: name of the preset.
        overrides: ``key.path=value``; the value is read as YAML.
        sources: text sources that replace those of the preset, and its mixture (``--data``).
        held_out: evaluation-only text sources (``--eval-data``).
        phases: names that replace those of the preset (``--phases``).

    Raises:
        ConfigError: with one sentence that names the key, the value and what was expected.
    """
    values = load_preset(preset)
    if chosen := tuple(sources):
        values["data"] |= {"sources": chosen, "mixture": {}}  # the preset's shares are those of its own sources
    if kept := tuple(held_out):
        values["data"]["eval_sources"] = kept
    if names := tuple(phases):
        _check_phases(names)
        values["phases"] = names
    for override in overrides:
        _apply(values, override)
    return parse_config(values)


def parse_config(values: Mapping[str, Any]) -> ForgeConfig:
    """Plain values (a preset, or what a session recorded) as a configuration.

    Raises:
        ConfigError: the first error, as one sentence.
    """
    try:
        config = ForgeConfig.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from None
    _check_phases(config.phases)
    for group in ("gates", "handoffs", "limits", "fallbacks"):
        for name in getattr(config, group):
            if name not in _STEPS:
                raise ConfigError(f"unknown configuration key '{group}.{name}'{_did_you_mean(name, _STEPS)}")
    return config


def _check_phases(names: Iterable[str]) -> None:
    for name in names:
        if name not in ORDER:
            raise ConfigError(f"unknown phase {name!r}{_did_you_mean(name, ORDER)}; phases: {', '.join(ORDER)}")


def _apply(values: dict[str, Any], override: str) -> None:
    """Sets one ``key.path=value`` in nested plain values; every key on the way must be known."""
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set takes key=value, and got {override!r}")
    keys = path.split(".")
    place: Any = values
    model: Any = ForgeConfig
    for depth, key in enumerate(keys):
        model = _check_key(model, key, ".".join(keys[:depth]))
        if depth == len(keys) - 1:
            place[key] = yaml_value(override, text)
        else:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{'.'.join(keys[: depth + 1])} is a single value and has no key {keys[depth + 1]!r}")


def yaml_value(setting: str, text: str) -> Any:
    """What the right side of ``--set key=value`` says.

    Raises:
        ConfigError: it is no YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {setting!r} cannot be read as YAML: {getattr(error, 'problem', error)}") from None


def _check_key(model: Any, key: str, parent: str) -> Any:
    """The type under ``key``; a ConfigError with a suggestion when a model has no such key."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    if key not in model.model_fields:
        full = f"{parent}.{key}" if parent else key
        raise ConfigError(f"unknown configuration key {full!r}{_did_you_mean(key, model.model_fields)}")
    return model.model_fields[key].annotation


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"]) or "the configuration"
    if first["type"] == "extra_forbidden":
        return (
            f"unknown configuration key {path!r}{_did_you_mean(str(first['loc'][-1]), _fields_at(first['loc'][:-1]))}"
        )
    if first["type"] == "missing":
        return f"configuration key {path!r} is missing"
    return f"{path} = {first['input']!r} cannot be: {first['msg'][0].lower()}{first['msg'][1:]}"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    model: Any = ForgeConfig
    for key in location:
        if get_origin(model) is Mapping:
            model = get_args(model)[1]
            continue
        field = getattr(model, "model_fields", {}).get(key)
        if field is None:
            return []
        model = field.annotation
    return list(getattr(model, "model_fields", {}))

"""The trunk and its three branches: how many steps each takes, on which data, at which rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from agent_forge.data.corpora import Corpus
from agent_forge.data.packing import Batches, TokenShard
from agent_forge.model import CognateForCausalLM
from agent_forge.model.roles import parameter_roles
from agent_forge.optim.muon_grokfast import MuonGrokfast
from agent_forge.optim.precision import has_fast_bfloat16
from agent_forge.optim.schedules import multiplier
from agent_forge.phases.cognate.config import CognatePhaseConfig
from agent_forge.phases.cognate.objective import Weights
from agent_forge.phases.cognate.training import Recipe, TrainingRun
from agent_forge.phases.cognate.watch import Alarm

TRUNK = "trunk"
SPECIALTIES = ("reasoning", "memory_integration", "adaptive_computation")


@dataclass(frozen=True)
class Stage:
    """One training run of the phase.

    Attributes:
        name: "trunk" or a specialty.
        steps: training steps.
        seed: of the order of its data.
        initial_seed: of the initial weights, where they are not the trunk's.
        mixture: weight of each domain.
        grows_from_trunk: starts at the trunk's weights.
    """

    name: str
    steps: int
    seed: int
    initial_seed: int
    mixture: Mapping[str, float]
    grows_from_trunk: bool


def stages_of(config: CognatePhaseConfig, corpus: Corpus, seed: int) -> list[Stage]:
    """The trunk first, then the specialties in their order.

    Args:
        config: of the phase.
        corpus: says what each specialty is made of.
        seed: of the session.
    """
    whole = corpus.mixture()
    trunk_steps = max(1, round(config.trunk_fraction * config.steps))
    branch_steps = max(1, (config.steps - trunk_steps) // len(SPECIALTIES))
    scratch = config.specialize_from == "scratch"
    stages = [Stage(TRUNK, trunk_steps, seed, seed, whole, grows_from_trunk=False)]
    for name, own_seed in zip(SPECIALTIES, config.specialty_seeds, strict=True):
        own = corpus.specialties()[name]
        share = config.specialty_weight
        mixture = {domain: (1 - share) * whole.get(domain, 0.0) + share * own.get(domain, 0.0) for domain in whole}
        # The session's seed moves the branches too, so that two sessions differ throughout.
        stages.append(
            Stage(
                name,
                trunk_steps + branch_steps if scratch else branch_steps,
                own_seed + 7919 * seed,
                own_seed,
                mixture,
                grows_from_trunk=not scratch,
            )
        )
    return stages


def make_run(
    config: CognatePhaseConfig,
    stage: Stage,
    model: CognateForCausalLM,
    shards: Mapping[str, TokenShard],
    precision: torch.dtype,
    alarm: Callable[[Alarm], None],
) -> TrainingRun:
    """A training run of a stage, at its first step."""
    return TrainingRun(model, make_optimizer(config, model), make_recipe(config, stage, shards, precision), alarm)


def make_optimizer(config: CognatePhaseConfig, model: CognateForCausalLM) -> MuonGrokfast:
    """Muon for the matrices of the body, AdamW for the rest, by role."""
    roles = parameter_roles(model)
    parameters = dict(model.named_parameters())
    matrices = {n for n, p in parameters.items() if p.ndim == 2 and roles[n] in ("linear", "memory", "gate")}
    return MuonGrokfast(
        parameters.items(),
        {name for name in matrices if min(parameters[name].shape) > 1},
        lr=config.learning_rate,
        adamw_lr=config.adamw_learning_rate,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        orthogonalization=config.orthogonalization,
        orthogonalization_steps=config.orthogonalization_steps,
        orthogonalization_dtype=torch.bfloat16 if has_fast_bfloat16(model.device.type) else torch.float32,
        clip_norm=config.clip_norm,
        grokfast_lambda=config.grokfast_lambda,
        grokfast_alpha=config.grokfast_alpha,
    )


def make_recipe(
    config: CognatePhaseConfig, stage: Stage, shards: Mapping[str, TokenShard], precision: torch.dtype
) -> Recipe:
    """What the run of a stage does."""
    whole_curriculum = not stage.grows_from_trunk
    chosen = config.lengths if whole_curriculum else config.lengths[-1:]

    def batches(tokens: int) -> Batches:
        return Batches(
            shards,
            stage.mixture,
            sequence_length=tokens,
            batch_size=max(1, config.batch_tokens // tokens),
            seed=stage.seed,
        )

    lengths = [
        (round(length.start * stage.steps) if whole_curriculum else 0, batches(length.tokens)) for length in chosen
    ]
    return Recipe(
        steps=stage.steps,
        lengths=lengths,
        rate=_rate(config, stage),
        weights=Weights(
            next_token=config.next_token_weight,
            coherence=config.coherence_weight,
            diversity=config.diversity_weight,
            halting=config.halting_weight,
            gate_entropy=config.gate_entropy_weight,
            steps=config.step_weights,
            supervised_fraction=config.supervised_fraction,
            halting_epsilon=config.halting_epsilon,
            segment_tokens=config.segment_tokens,
        ),
        attention_entropy=config.attention_entropy_weight,
        precision=precision,
        # One window at least: 0 would mean the whole batch.
        micro_batch=max(1, config.micro_batch_tokens // chosen[-1].tokens) if config.micro_batch_tokens else 0,
        # Branches go on with the halting head that the trunk has taught.
        halting_from=round(config.halting_warmup_fraction * stage.steps) if whole_curriculum else 0,
        average_decay=config.average_decay,
        snapshot_every=config.checkpoint_every,
        log_every=config.log_every,
        probe_every=config.probe_every,
        qk_clip_every=config.qk_clip_every,
        qk_clip_threshold=config.qk_clip_threshold,
        max_restores=config.max_restores,
        seed=stage.seed,
    )


def _rate(config: CognatePhaseConfig, stage: Stage) -> Callable[[float], float]:
    """The trunk follows the schedule down to its final rate; a branch warms up shortly and falls to zero."""
    if stage.grows_from_trunk:
        return lambda progress: (
            config.branch_rate * multiplier("wsd", progress, warmup_fraction=0.05, decay_fraction=0.95)
        )
    floor = config.trunk_final_rate if stage.name == TRUNK and config.specialize_from == "trunk" else 0.0
    return lambda progress: multiplier(
        config.schedule,
        progress,
        warmup_fraction=config.warmup_fraction,
        decay_fraction=config.decay_fraction,
        floor=floor,
    )

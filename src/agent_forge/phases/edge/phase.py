"""Phase 7: prune, train experts, choose a design, write the agent, export it, and see whether it fits its machine.

See docs/phases/edge.md. The weights of the base are not changed by what comes after pruning; what a cut costs is
measured on the test split, before and after, by the same questions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.toolbox import Toolbox
from agent_forge.contract import Artifact, Artifacts, Context, one
from agent_forge.data.corpora import Corpus
from agent_forge.data.packing import Batches, pack
from agent_forge.model.checkpoint import load_model, save_model
from agent_forge.model.forward import on_device
from agent_forge.model.ternary import is_exactly_ternary, ternary_linears
from agent_forge.model.ternary_checkpoint import save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.phases.edge import DECLARATION
from agent_forge.phases.edge.bundle import bundle, measured_speed
from agent_forge.phases.edge.config import EdgeConfig
from agent_forge.phases.edge.course import Course
from agent_forge.phases.edge.design_course import Known, search
from agent_forge.phases.edge.expert_course import Experts, train_experts
from agent_forge.phases.edge.expert_lesson import ExpertSettings
from agent_forge.phases.edge.judgement import Judgement, changes
from agent_forge.phases.edge.pruning import Limits, Pruned, prune


class Edge:
    """See the module."""

    name: ClassVar[str] = DECLARATION.name
    version: ClassVar[int] = DECLARATION.version
    consumes: ClassVar[Mapping[str, str]] = DECLARATION.consumes
    produces: ClassVar[Mapping[str, str]] = DECLARATION.produces

    def run(self, config: EdgeConfig, inputs: Artifacts, context: Context) -> Artifacts:
        """Gives the agent with its experts and its design, and the bundle that runs without PyTorch."""
        source = one(inputs, "model")
        model, tokenizer = context.load_model(source)
        corpus = Corpus.open(context.path(one(inputs, "corpus")))
        toolbox = Toolbox.load(context.path(source))
        persona = str(source.facts.get("persona", ""))
        judgement = Judgement(config, tokenizer, corpus, toolbox, persona, context.seed)
        course = Course(context)
        before = course.remember("before", lambda: judgement.figures(model, "test"))
        pruned = _prune(config, course, judgement, model, tokenizer, corpus)
        base = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        experts = _train(config, course, model, tokenizer, corpus)
        known = Known(corpus, toolbox, source.facts.get("practice"))
        designed = search(config.design, course, model, tokenizer, known, experts)
        facts = self._facts(config, source, context.seed, pruned, experts)
        folder = _write(model, tokenizer, toolbox, experts, context.scratch / "agent", facts)
        designed.save(folder)
        agent, _ = load_model(folder)
        agent.to(context.device)  # type: ignore[arg-type]
        after = judgement.figures(agent, "test") if pruned.cuts else before
        measured = {**changes(before, after), "edge/bits_per_byte": after["bits_per_byte"], **experts.measured}
        measured |= {f"edge/design/{name}": value for name, value in designed.measured.items()}
        measured["edge/base_unchanged"] = float(_equal(base, agent.state_dict()))
        if ternary_linears(agent):
            measured["edge/exactly_ternary"] = float(is_exactly_ternary(folder))
        measured["edge/parameters_cut_fraction"] = 1 - pruned.parameters / pruned.parameters_before
        packed, parity = bundle(folder, context.scratch / "bundle", config, judgement, agent)
        speeds, fit = measured_speed(folder, packed, config) if config.bench_repeats else ({}, {})
        context.report(measured | parity | speeds)
        page = {
            "pruning": pruned.to_json(),
            "experts": experts.page,
            "design": designed.page,
            "fit": fit,
            "before": before,
            "after": after,
        }
        context.attach("edge", {**page, "measured": measured | parity | speeds})
        return {
            "model": context.save_folder("checkpoint", folder, **facts),
            "bundle": context.save_folder("bundle", packed, phase=self.name, parents=[source.digest]),
        }

    def _facts(
        self, config: EdgeConfig, source: Artifact, seed: int, pruned: Pruned, experts: Experts
    ) -> dict[str, Any]:
        """What later phases want to know of the agent stays known."""
        kept = {name: source.facts[name] for name in ("persona", "tools", "practice") if name in source.facts}
        return {
            **kept,
            "phase": self.name,
            "parents": [source.digest],
            "config": config.model_dump(mode="json"),
            "seed": seed,
            "cuts": len(pruned.cuts),
            "experts": [expert.name for expert in experts.experts],
        }


def _prune(
    config: EdgeConfig,
    course: Course,
    judgement: Judgement,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
) -> Pruned:
    """Cuts ``model`` in place, and says what was cut, what was undone, and why."""
    part = config.pruning
    shards = {domain: pack(corpus.documents(domain, "train")[: part.documents], tokenizer) for domain in corpus.domains}
    windows = Batches(
        shards,
        dict.fromkeys(shards, 1.0),
        sequence_length=part.sequence_length,
        batch_size=8,
        seed=0,
        mask_prompts=True,
    )
    batches = [on_device(model.device, windows.batch(number)) for number in range(max(1, part.documents // 8))]
    saved = course.states.get("pruning")
    return prune(
        model,
        batches,
        lambda each: judgement.figures(each, "selection"),
        kinds=part.kinds,
        limits=Limits(points=part.max_points, bits_ratio=part.max_bits_ratio),
        step_fraction=part.step_fraction,
        max_judgements=part.max_judgements,
        state=None if saved is None else json.loads(saved),
        keep=lambda state: course.keep("pruning", json.dumps(state)),
    )


def _train(
    config: EdgeConfig, course: Course, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Corpus
) -> Experts:
    """The experts; why a skill has none is told (premortem PR7)."""
    part, context = config.experts, course.context
    shared = ("rank", "levels", "steps", "batch_size", "sequence_length", "learning_rate", "policy_steps",
              "policy_questions", "policy_samples", "policy_learning_rate", "divergence_weight", "train_documents",
              "selection_documents", "test_documents")  # fmt: skip
    settings = ExpertSettings(
        **{name: getattr(part, name) for name in shared},
        answer_tokens=config.answer_tokens,
        keep_every=config.checkpoint_every,
    )
    found = train_experts(
        model,
        tokenizer,
        corpus,
        skills=part.skills,
        settings=settings,
        seed=context.seed,
        most=part.most,
        population=part.population,
        generations=part.generations,
        saved=course.states.get("experts"),
        keep=lambda state, step: course.keep("experts", dict(state)),
        observe=context.log,
    )
    for skill, reason in found.skipped.items():
        context.warn("PR7", f"no expert for {skill}: {reason}")
    return found


def _write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    experts: Experts,
    folder: Path,
    facts: dict[str, Any],
) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    if ternary_linears(model):
        save_ternary(model, tokenizer, folder, select(model, tokenizer), facts)
    else:
        save_model(model, tokenizer, folder, facts)
    if toolbox is not None:
        toolbox.save(folder)
    experts.save(folder)
    return folder


def _equal(base: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> bool:
    return base.keys() == stored.keys() and all(
        torch.equal(tensor.cpu(), stored[name].cpu()) for name, tensor in base.items()
    )


PHASE = Edge()

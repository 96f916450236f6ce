"""Phase 1: a corpus becomes a trunk and three specialists that grew from it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Any, ClassVar

import torch
from transformers import PreTrainedTokenizerBase

from agent_forge.contract import Artifact, Artifacts, Context, one
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Split
from agent_forge.data.packing import TokenShard, pack
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.errors import Interrupted
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.parameters import check_budget, count_parameters
from agent_forge.optim.precision import training_precision
from agent_forge.phases.cognate import DECLARATION
from agent_forge.phases.cognate.config import CognatePhaseConfig
from agent_forge.phases.cognate.domain_figures import domain_figures
from agent_forge.phases.cognate.merge_preview import slerp_states
from agent_forge.phases.cognate.specialization import specialization_score
from agent_forge.phases.cognate.stages import TRUNK, Stage, make_run, stages_of
from agent_forge.phases.cognate.training import TrainingRun, averaged, unshared_state
from agent_forge.phases.cognate.watch import Alarm


class Cognate:
    """Pretrains TRM × Titans-MAG models with Muon × Grokfast."""

    name: ClassVar[str] = DECLARATION.name
    version: ClassVar[int] = DECLARATION.version
    consumes: ClassVar[Mapping[str, str]] = DECLARATION.consumes
    produces: ClassVar[Mapping[str, str]] = DECLARATION.produces

    def run(self, config: CognatePhaseConfig, inputs: Artifacts, context: Context) -> Artifacts:
        """Trains trunk and branches, saves them, and reports what they can do on the test split."""
        return Pretraining(config, one(inputs, "corpus"), context).run()


class Pretraining:
    """One run of the phase: what its steps share."""

    def __init__(self, config: CognatePhaseConfig, corpus: Artifact, context: Context) -> None:
        self.config, self.context, self.data_digest = config, context, corpus.digest
        self.corpus = Corpus.open(context.path(corpus))
        self.tokenizer: PreTrainedTokenizerBase = train_tokenizer(self.corpus.training_texts(), config.model.vocab_size)
        self.shape = CognateConfig(**{**config.model.model_dump(), "vocab_size": len(self.tokenizer)})
        if config.parameters is not None:
            check_budget(self.shape, config.parameters)
        self.shards: dict[str, TokenShard] = {
            domain: pack(self.corpus.documents(domain, "train"), self.tokenizer) for domain in self.corpus.domains
        }
        self.stages = stages_of(config, self.corpus, context.seed)
        self.total = sum(stage.steps for stage in self.stages)
        self.finished: dict[str, dict[str, Any]] = {}
        self.before = 0  # steps of the stages before the running one

    def run(self) -> Artifacts:
        """Every stage in turn, from where a killed run stood."""
        state, _ = self.context.restore() or (None, 0)
        self.finished = state["finished"] if state else {}
        for stage in self.stages:
            if stage.name not in self.finished:
                self._train(stage, state["run"] if state and state["stage"] == stage.name else None)
            self.before += stage.steps
        artifacts = self._save()
        self._measure()
        return artifacts

    def _model(self, stage: Stage) -> CognateForCausalLM:
        torch.manual_seed(stage.initial_seed)
        if stage.grows_from_trunk:
            return self._loaded(self.finished[TRUNK]["weights"])
        model = CognateForCausalLM(deepcopy(self.shape))
        model.to(torch.device(self.context.device))  # type: ignore[arg-type]
        return model

    def _train(self, stage: Stage, state: Mapping[str, Any] | None) -> None:
        config, context = self.config, self.context
        precision = training_precision(config.precision, context.device)
        run = make_run(config, stage, self._model(stage), self.shards, precision, self._alarm)
        if state is not None:
            run.load_state_dict(state)
        while not run.done:
            step = run.step
            if step and step % config.checkpoint_every == 0:
                self._checkpoint(stage, run)
            if context.should_stop():
                self._checkpoint(stage, run)
                raise Interrupted(f"stopped in {stage.name} at step {run.step} of {stage.steps}; resume goes on there")
            metrics = run.advance()
            if run.step % config.validate_every == 0 or run.done:
                metrics |= self._validate(run)
            if metrics:
                context.log(metrics, self.before + run.step)
                loss = metrics.get("loss/next_token", metrics.get("valid/loss", 0.0))
                context.progress(self.before + run.step, self.total, f"{stage.name} · loss {loss:.3f}")
        with averaged(run) as model:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in unshared_state(model).items()}
        losses = list(run.watch.losses)
        self.finished[stage.name] = {
            "weights": weights,
            "final_loss": sum(losses) / len(losses),
            "tokens_seen": run.tokens_seen + (self.finished[TRUNK]["tokens_seen"] if stage.grows_from_trunk else 0),
            "halting_threshold": float(run.model.config.halting_threshold),
        }
        context.checkpoint({"stage": "", "finished": self.finished, "run": {}}, self.before + run.step)

    def _checkpoint(self, stage: Stage, run: TrainingRun) -> None:
        state = {"stage": stage.name, "finished": self.finished, "run": run.state_dict()}
        self.context.checkpoint(state, self.before + run.step)

    def _alarm(self, alarm: Alarm) -> None:
        self.context.warn(alarm.failure, alarm.message, **alarm.evidence)

    def _validate(self, run: TrainingRun) -> dict[str, float]:
        """Bits per byte on the selection split, and what gate and halting do there."""
        with averaged(run) as model, torch.inference_mode():
            metrics = {f"valid/{name}": value for name, value in self._bits(model, "selection").items()}
            ids = run.batches().batch(0)["input_ids"][:4].to(self.context.device)
            found = model.features(ids, output_statistics=True)
            metrics |= {name: float(value) for name, value in found.statistics.items()}
            if found.halting_logits:
                largest = torch.stack([logits.sigmoid().max() for logits in found.halting_logits[:-1]]).max()
                metrics["act/largest_halt_prob"] = float(largest)
        run.answer_validation(metrics)
        return metrics

    def _bits(self, model: CognateForCausalLM, split: Split) -> dict[str, float]:
        config, tested = self.config, split == "test"
        return domain_figures(
            model, self.tokenizer, self.corpus, split,
            max_documents=config.test_documents if tested else config.validation_documents,
            precision=training_precision(config.precision, self.context.device),
        )  # fmt: skip

    def _loaded(self, weights: Mapping[str, torch.Tensor], name: str = TRUNK) -> CognateForCausalLM:
        # A configuration of its own: training moves the halting threshold.
        model = CognateForCausalLM(deepcopy(self.shape))
        model.load_state_dict(dict(weights), strict=False)
        model.config.halting_threshold = self.finished[name]["halting_threshold"]
        model.to(torch.device(self.context.device))  # type: ignore[arg-type]
        model.train(False)
        return model

    def _save(self) -> dict[str, Artifact | tuple[Artifact, ...]]:
        """Saves before anything is measured."""
        parameters = count_parameters(self.shape)["total"]
        saved: dict[str, Artifact] = {}
        for stage in self.stages:
            found = self.finished[stage.name]
            saved[stage.name] = self.context.save_model(
                self._loaded(found["weights"], stage.name), self.tokenizer,
                phase="cognate", specialization=stage.name, final_loss=found["final_loss"], seed=stage.seed,
                param_count=parameters, tokens_seen=found["tokens_seen"], data_digest=self.data_digest,
            )  # fmt: skip
        return {"specialists": tuple(saved[s.name] for s in self.stages if s.name != TRUNK), "trunk": saved[TRUNK]}

    def _measure(self) -> None:
        """Figures for the gates (test split) and the merge preview (selection split)."""
        names = [stage.name for stage in self.stages]
        bits = {name: self._bits(self._loaded(self.finished[name]["weights"], name), "test") for name in names}
        by_domain = {name: {d: bits[name][f"bits_per_byte/{d}"] for d in self.corpus.domains if
                            f"bits_per_byte/{d}" in bits[name]} for name in names}  # fmt: skip
        score, gains = specialization_score(by_domain, self.corpus.specialties())
        figures = {f"bits_per_byte/{name}": bits[name]["bits_per_byte"] for name in names}
        figures |= {f"specialization_gain/{name}": gain for name, gain in gains.items()}
        figures |= {
            "parameters": float(count_parameters(self.shape)["total"]),
            "specialization_score": score,
            "perplexity": bits[TRUNK]["perplexity"],
            "tokens_seen": float(self.finished[TRUNK]["tokens_seen"]),
            "merge_preview": self._preview([name for name in names if name != TRUNK]),
        }
        self.context.report({f"cognate/{name}": value for name, value in figures.items()})
        self.context.attach("cognate/bits_per_byte", by_domain)

    def _preview(self, names: list[str]) -> float:
        """Smallest ratio of the parents' mean bits per byte to those of their SLERP; ≥ 1: they merge."""
        own = {n: self._bits(self._loaded(self.finished[n]["weights"], n), "selection")["bits_per_byte"] for n in names}
        ratios = []
        for first, second in pairwise(names):
            merged = slerp_states(self.finished[first]["weights"], self.finished[second]["weights"])
            bits = self._bits(self._loaded(merged), "selection")["bits_per_byte"]
            ratios.append((own[first] + own[second]) / 2 / bits)
            if ratios[-1] < 1:
                self.context.warn("G1", f"{first} and {second} merge badly", ratio=ratios[-1], merged=bits)
        if sum(ratio < 1 for ratio in ratios) >= 2:
            self.context.warn("A1", "no two branches merge: the objective does not serve merging", worst=min(ratios))
        return min(ratios)


PHASE = Cognate()

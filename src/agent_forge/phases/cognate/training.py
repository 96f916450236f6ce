"""One training run: the loop of trunk and branches, with exact resume and the answers to the premortem.

Everything that a run needs to go on is in `TrainingRun.state_dict`: weights, their average, the optimizer, the step.
The order of data is a function of (seed, step), and so are the positions that are supervised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from agent_forge.data.packing import Batches
from agent_forge.errors import OutOfMemory, PhaseFailed
from agent_forge.model import CognateForCausalLM
from agent_forge.optim.muon_grokfast import MuonGrokfast
from agent_forge.optim.schedules import staged
from agent_forge.phases.cognate.attention_watch import (
    attention_entropy,
    attention_metrics,
    clip_attention,
    query_key_names,
    recording,
)
from agent_forge.phases.cognate.cross_entropy import IGNORED
from agent_forge.phases.cognate.objective import Weights, composite_loss
from agent_forge.phases.cognate.watch import Alarm, Watch

AVERAGE_EVERY = 4


@dataclass(frozen=True)
class Recipe:
    """What one training run does, in plain values.

    Attributes:
        steps: training steps.
        lengths: (first step, batches) of each stage of the length curriculum.
        rate: factor on the peak learning rate, from the share of the run that is done (0–1).
        weights: of the objective.
        attention_entropy: weight of the attention entropy.
        precision: type of autocast.
        micro_batch: windows of one forward pass; 0 = all.
        halting_from: first step with halting targets.
        average_decay: per step; 0 = no average.
        snapshot_every: steps between two good states to return to.
        log_every, probe_every, qk_clip_every: steps.
        qk_clip_threshold: in logits.
        max_restores: before giving up.
        seed: of the positions that are supervised.
    """

    steps: int
    lengths: Sequence[tuple[int, Batches]]
    rate: Callable[[float], float]
    weights: Weights
    attention_entropy: float = 0.0
    precision: torch.dtype = torch.float32
    micro_batch: int = 0
    halting_from: int = 0
    average_decay: float = 0.99
    snapshot_every: int = 1000
    log_every: int = 10
    probe_every: int = 500
    qk_clip_every: int = 20
    qk_clip_threshold: float = 30.0
    max_restores: int = 5
    seed: int = 0


class TrainingRun:
    """A model on its way through a recipe.

    Args:
        model: is trained in place.
        optimizer: of its parameters.
        recipe: what to do.
        alarm: called with every entry of the premortem that is seen.
    """

    def __init__(
        self, model: CognateForCausalLM, optimizer: MuonGrokfast, recipe: Recipe, alarm: Callable[[Alarm], None]
    ) -> None:
        self.model, self.optimizer, self.recipe, self.alarm = model, optimizer, recipe, alarm
        self.step = self.tokens_seen = 0
        self.skipped = self.restores = 0
        self.rate_factor = self.query_key_rate = 1.0
        self.micro_batch = recipe.micro_batch
        self.attention_entropy = recipe.attention_entropy
        self.clip_threshold = recipe.qk_clip_threshold
        self.average = [p.detach().clone() for p in model.parameters()] if recipe.average_decay else []
        config = model.config
        self.watch = Watch(max_steps=max(1, config.recursion_steps), has_memory=config.memory != "off")
        self._good: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings from which the run goes on bit for bit, also into a restore (premortem C2)."""
        # On the grid the next step takes a good state of its own; between two of them the last one is kept.
        between = self._good is not None and self.step % self.recipe.snapshot_every != 0
        return self._state() | {"good": self._good if between else {}}

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens_seen": self.tokens_seen,
            "skipped": self.skipped,
            "restores": self.restores,
            "rate_factor": self.rate_factor,
            "query_key_rate": self.query_key_rate,
            "micro_batch": self.micro_batch,
            "attention_entropy": self.attention_entropy,
            "clip_threshold": self.clip_threshold,
            "halting_threshold": float(self.model.config.halting_threshold),
            "orthogonalization": [self.optimizer.orthogonalization, self.optimizer.orthogonalization_steps],
            "precision": str(self.recipe.precision),
            "model": {name: tensor.detach() for name, tensor in unshared_state(self.model).items()},
            "average": {str(index): tensor for index, tensor in enumerate(self.average)},
            "optimizer": self.optimizer.state_dict(),
            "watch": self.watch.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state of `state_dict`; keeps the precision that the run began with."""
        kind = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16)}[state["precision"]]
        self.recipe = replace(self.recipe, precision=kind)
        for name in ("step", "tokens_seen", "skipped", "restores", "micro_batch"):
            setattr(self, name, int(state[name]))
        for name in ("rate_factor", "attention_entropy", "clip_threshold"):
            setattr(self, name, float(state[name]))
        self._slow_queries_and_keys(float(state["query_key_rate"]) / self.query_key_rate)
        self._load_learnt(state)
        self._good = _copied(state["good"]) or None

    def _load_learnt(self, state: Mapping[str, Any]) -> None:
        """The part that returning to a good state turns back: everything that was learnt."""
        self.step, self.tokens_seen = int(state["step"]), int(state["tokens_seen"])
        self.model.config.halting_threshold = float(state["halting_threshold"])
        self.optimizer.orthogonalization, steps = state["orthogonalization"]
        self.optimizer.orthogonalization_steps = int(steps)
        self.model.load_state_dict(state["model"], strict=False)
        for index, tensor in enumerate(self.average):
            tensor.copy_(state["average"][str(index)])
        self.optimizer.load_state_dict(state["optimizer"])
        self.watch.load_state_dict(state["watch"])

    @property
    def done(self) -> bool:
        """True when every step is made."""
        return self.step >= self.recipe.steps

    def batches(self) -> Batches:
        """The batches of the length that is running."""
        return self.recipe.lengths[staged(float(self.step), [(f, i) for i, (f, _) in enumerate(self.recipe.lengths)])][
            1
        ]

    def advance(self) -> dict[str, float]:
        """One training step.

        Returns:
            Metrics, if this step is one to log.

        Raises:
            PhaseFailed: the run returned to a good state too often.
            OutOfMemory: a single window does not fit into memory.
        """
        recipe, step = self.recipe, self.step
        if self._good is None or step % recipe.snapshot_every == 0:
            self._good = _copied(self._state())
        logging = step % recipe.log_every == 0 or step + 1 == recipe.steps
        probing = step % recipe.probe_every == 0
        batches = self.batches()
        batch = batches.batch(step + self.skipped)
        self.model.train()
        self.optimizer.set_rate(recipe.rate(step / recipe.steps) * self.rate_factor)
        parts = self._with_memory_to_spare(batch)
        self.optimizer.step(measure=logging)
        self.optimizer.zero_grad(set_to_none=True)
        alarm = self.watch.after_backward(parts["loss/total"], self.optimizer.gradient_norm)
        if alarm is not None:
            self._answer(alarm)
            if alarm.action == "restore":
                return {}
        self._average()
        self.step += 1
        self.tokens_seen += batches.tokens_per_step
        parts |= self.optimizer.measured | self._look(batch, step, probing)
        if not logging:
            return {}
        for found in self.watch.optimizer(self.optimizer.measured, self.optimizer.grokfast_lambda):
            self._answer(found)
        parts["train/rate"] = self.optimizer.param_groups[0]["lr"]
        parts["train/tokens_seen"] = float(self.tokens_seen)
        return parts

    def _with_memory_to_spare(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Forward and backward; where memory runs out, in halves that add up to the same gradient (ENV1)."""
        rows = batch["input_ids"].shape[0]
        while True:
            size = min(self.micro_batch or rows, rows)
            try:
                return self._backward(batch, size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.optimizer.zero_grad(set_to_none=True)
                if size == 1:
                    raise OutOfMemory("cognate", self.step, "one window of text does not fit into memory") from error
                self.micro_batch = size // 2
                evidence = {"windows": float(size), "windows_next": float(self.micro_batch)}
                self.alarm(Alarm("ENV1", "out of memory: smaller micro-batches, same gradient", evidence))

    def _backward(self, batch: Mapping[str, Tensor], size: int) -> dict[str, float]:
        rows = batch["input_ids"].shape[0]
        predicted = (batch["labels"][:, 1:] != IGNORED).sum(1)
        total = int(predicted.sum())
        sums: dict[str, float] = {}
        for start in range(0, rows, size):
            share = float(predicted[start : start + size].sum()) / total
            if share == 0.0:
                continue
            piece = {name: tensor[start : start + size] for name, tensor in batch.items()}
            loss, parts = self._loss(piece, start)
            torch.autograd.backward(loss * share)
            parts["loss/total"] = loss.detach()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + share * float(value)
        return sums

    def _loss(self, batch: Mapping[str, Tensor], start: int) -> tuple[Tensor, dict[str, Tensor]]:
        recipe, model = self.recipe, self.model
        kind = model.device.type
        moved = {name: tensor.to(model.device) for name, tensor in batch.items()}
        documents = moved["document_ids"]
        watch_gate = model.config.has_gate and recipe.weights.gate_entropy > 0
        with (
            torch.autocast(kind, dtype=recipe.precision, enabled=recipe.precision != torch.float32),
            recording_if(self.attention_entropy > 0, model) as recorded,
        ):
            found = model.features(moved["input_ids"], document_ids=documents, output_statistics=watch_gate)
            loss, parts = composite_loss(
                found.steps,
                found.halting_logits,
                model.lm_head.weight,
                moved["labels"],
                documents,
                recipe.weights,
                gate_entropy=found.statistics.get("gate/entropy"),
                soft_cap=model.config.logit_soft_cap,
                halting=model.halting if self.step >= recipe.halting_from else None,
                generator=step_generator(recipe.seed, self.step, start),
            )
        if "gate/m_usage" in found.statistics:
            parts["gate/m_usage"] = found.statistics["gate/m_usage"].detach()
        if recorded is not None:
            entropy = attention_entropy(recorded)
            loss = loss - self.attention_entropy * entropy
            parts["attn/entropy_fraction"] = entropy.detach()
        return loss, parts

    @torch.no_grad()
    def _average(self) -> None:
        if self.average and self.step % AVERAGE_EVERY == 0:
            # An average that starts at the initial weights would remember them: short memory at first.
            decay = min(self.recipe.average_decay**AVERAGE_EVERY, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1 - decay)

    def _look(self, batch: Mapping[str, Tensor], step: int, probing: bool) -> dict[str, float]:
        """QK-clip where it is needed, and attention figures now and then."""
        clipping = not self.model.config.qk_norm and step % self.recipe.qk_clip_every == 0
        if not (clipping or probing):
            return {}
        with torch.no_grad(), recording(self.model) as recorded:
            self.model.features(batch["input_ids"][:1].to(self.model.device))
        figures: dict[str, float] = {}
        if clipping:
            count, heads = clip_attention(recorded, threshold=self.clip_threshold)
            figures["optim/qk_clip_count"], figures["optim/qk_clip_fraction"] = float(count), count / heads
            if (alarm := self.watch.clipped(count / heads, loosened=self.query_key_rate < 1)) is not None:
                self._answer(alarm)
        if probing:
            figures |= attention_metrics(recorded)
            for found in self.watch.attention(figures):
                self._answer(found)
        return figures

    def answer_validation(self, figures: Mapping[str, float]) -> None:
        """Lets the premortem see a validation."""
        for found in self.watch.validation(dict(figures), warmed_up=self.step > self.recipe.halting_from):
            self._answer(found)

    def _answer(self, alarm: Alarm) -> None:
        """Does what an alarm asks for, and tells."""
        optimizer, config = self.optimizer, self.model.config
        self.alarm(alarm)
        if alarm.action == "restore":
            self._restore(alarm)
        elif alarm.action == "weaker_grokfast":
            optimizer.grokfast_lambda = 0.1 if optimizer.grokfast_lambda > 0.1 else 0.0
        elif alarm.action == "more_orthogonalization":
            if optimizer.orthogonalization_steps < 5:
                optimizer.orthogonalization_steps = 5
            else:
                optimizer.orthogonalization = "svd"
        elif alarm.action == "looser_clip":
            self.clip_threshold = max(self.clip_threshold, 50.0)
            self._slow_queries_and_keys(0.5)
        elif alarm.action == "raise_threshold":
            config.halting_threshold = min(0.95, config.halting_threshold + 0.1)
        elif alarm.action == "lower_threshold":
            config.halting_threshold = max(0.05, config.halting_threshold - 0.1)
        elif alarm.action == "attention_entropy":
            self.attention_entropy = max(self.attention_entropy, 0.01)

    def _slow_queries_and_keys(self, factor: float) -> None:
        if factor < 1:
            self.optimizer.scale_rate(query_key_names(self.model), factor)
            self.query_key_rate *= factor

    def _restore(self, alarm: Alarm) -> None:
        failed, good = self.step, self._good
        self.restores += 1
        if good is None or self.restores > self.recipe.max_restores:
            raise PhaseFailed("cognate", failed, f"{alarm.message}; seen {self.restores} times")
        self._load_learnt(good)
        # The data that led there is not seen again, and what follows is taken more carefully.
        self.skipped += failed - self.step + 1
        self.rate_factor *= 0.7


@contextmanager
def averaged(run: TrainingRun) -> Iterator[CognateForCausalLM]:
    """The model with averaged weights, in evaluation mode, for as long as the block runs."""
    parameters = list(run.model.parameters())
    trained = [p.detach().clone() for p in parameters]
    was_training = run.model.training
    run.model.train(False)
    try:
        with torch.no_grad():
            for parameter, mean in zip(parameters, run.average or trained, strict=True):
                parameter.copy_(mean)
        yield run.model
    finally:
        with torch.no_grad():
            for parameter, own in zip(parameters, trained, strict=True):
                parameter.copy_(own)
        run.model.train(was_training)


def recording_if(wanted: bool, model: nn.Module) -> Any:
    """`recording`, or a context that gives None."""
    return recording(model) if wanted else _nothing()


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def step_generator(seed: int, step: int, part: int) -> torch.Generator:
    """A generator that depends on nothing but its arguments."""
    return torch.Generator().manual_seed(((seed * 1_000_003 + step) * 1_009 + part) % (1 << 62))


def unshared_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, tied tensors once."""
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen.add(tensor.data_ptr())
            state[name] = tensor
    return state


def is_out_of_memory(error: BaseException) -> bool:
    """True for what torch raises when an allocation fails, on any device."""
    text = str(error)
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or any(
        mark in text for mark in ("not enough memory", "can't allocate memory", "out of memory")
    )


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_copied(value) for value in state]
    return state

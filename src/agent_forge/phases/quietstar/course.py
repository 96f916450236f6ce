"""The course of phase 3's training: the habit, then Quiet-STaR under watch, and states to resume from.

A state holds weights, optimizers, head, position and policy weight; batches and draws are pure functions of the step,
so a run that was killed goes on from its newest state and ends with the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agent_forge.contract import Context
from agent_forge.errors import Interrupted, PhaseFailed
from agent_forge.model.forward import accepted, arithmetic, on_device
from agent_forge.optim import schedules
from agent_forge.optim.muon_grokfast import MuonGrokfast, matrix_names
from agent_forge.optim.precision import training_precision
from agent_forge.optim.ternary_training import copied
from agent_forge.phases.quietstar.config import QuietstarConfig
from agent_forge.phases.quietstar.divergence import DivergenceWatch
from agent_forge.phases.quietstar.habit import HabitBatches, habit_loss
from agent_forge.phases.quietstar.mixing_head import MixingHead
from agent_forge.phases.quietstar.reinforce import QuietLoss, quiet_loss, targets
from agent_forge.phases.quietstar.thought_sampling import (
    Marks,
    place_by_place,
    sample_place_by_place,
    sample_thoughts,
    think_along,
    why_not_parallel,
)

LOG_EVERY = 10


class Course:
    """Trains a model to think.

    Args:
        config: of the phase.
        context: of the phase run.
        model: with thought tokens; trained in place.
        before: the frozen model that ordinary text is held to.
        batches: practice and ordinary text.
        marks: ids that thoughts are made with.

    Attributes:
        head: the mixing head.
        watch: what the policy did.
        policy_weight: what is left of it.
    """

    def __init__(
        self,
        config: QuietstarConfig,
        context: Context,
        model: PreTrainedModel,
        before: PreTrainedModel,
        batches: HabitBatches,
        marks: Marks,
    ) -> None:
        self.config, self.context, self.model, self.before = config, context, model, before
        self.batches, self.marks = batches, marks
        table: Any = model.get_input_embeddings().weight
        size = int(table.shape[1])
        self.head = MixingHead.seeded(size, context.generator("mixing head")).to(context.device)
        # moved into the table after every step: it only gives the marks a rate of their own
        self.shift = torch.nn.Parameter(torch.zeros(2, size, device=context.device))
        named = {**dict(model.named_parameters()), **{f"head.{n}": p for n, p in self.head.named_parameters()}}
        self.optimizer = MuonGrokfast(
            named.items(),
            matrix_names(model),
            lr=config.learning_rate,
            adamw_lr=config.other_learning_rate,
            weight_decay=0.0,
            grokfast_lambda=config.grokfast_lambda,
        )
        self.mark_optimizer = MuonGrokfast([("shift", self.shift)], (), lr=config.mark_learning_rate, weight_decay=0.0)
        self.autocast = training_precision(config.precision, context.device)
        self.watch = DivergenceWatch(config.max_divergence, config.min_gain, config.min_entropy, config.watch_window)
        self.policy_weight, self.step = config.policy_weight, 0
        self.total = config.habit_steps + config.quiet_steps
        self.parallel = why_not_parallel(model) is None
        self._good: dict[str, Any] | None = None
        self._documents = "document_ids" in accepted(model, {"document_ids": torch.zeros(1)})

    def run(self) -> None:
        """Goes from where the newest state stands to the end."""
        self._resume()
        self.model.train()
        while self.step < self.total:
            if self.context.should_stop():
                self._keep()
                raise Interrupted(f"stopped at step {self.step} of phase quietstar; the newest state is saved")
            if self.step < self.config.habit_steps:
                self._practise()
            elif self.policy_weight > 0 or self.config.policy_weight == 0:
                self._think()
            else:
                break  # the policy was given up
            self.step += 1
            self.context.progress(self.step, self.total, "learning to think")
            if self.step % self.config.checkpoint_every == 0 or self.step == self.config.habit_steps:
                self._keep()
        self.model.eval()

    def _practise(self) -> None:
        """One step of the habit."""
        done = self.step / self.config.habit_steps
        rate = schedules.multiplier("wsd", max(done, 1e-3), warmup_fraction=0.05, decay_fraction=0.7, floor=0.01)
        loss, parts = habit_loss(
            self.model,
            self.before,
            on_device(self.context.device, self.batches.batch(self.step)),
            hold_weight=self.config.hold_weight,
            autocast=self.autocast,
        )
        self._update(loss, rate, parts)

    def _think(self) -> None:
        """One step of Quiet-STaR; figures that say divergence lead back to the last good state."""
        found = self._quiet_loss(self.step)
        why = self.watch.look(found.divergence, found.gain, found.entropy)
        if why is None and not math.isfinite(float(found.loss.detach())):
            why = f"the loss is {float(found.loss.detach())}"
        if why is not None:
            self._roll_back(why)
            return
        rate = self.config.quiet_learning_rate / self.config.learning_rate
        figures = {**found.figures(), "quietstar/policy_weight": self.policy_weight}
        self._update(found.loss, rate, figures)
        self._fold_marks()

    def _quiet_loss(self, step: int) -> QuietLoss:
        config = self.config
        batch = on_device(self.context.device, self.batches.ordinary.batch(step))
        rows = slice(0, config.quiet_batch_size)
        ids = batch["input_ids"][rows, : config.quiet_length].repeat_interleave(config.samples, 0)
        labels = batch["labels"][rows, : config.quiet_length].repeat_interleave(config.samples, 0)
        documents = batch["document_ids"][rows, : config.quiet_length].repeat_interleave(config.samples, 0)
        generator = self.context.generator(f"thoughts {step}")
        places = self._places(ids.shape[1], generator).to(ids.device)
        # a foreign architecture knows no packed documents in its plain pass; its masks do
        known = documents if self._documents else None
        sample = sample_thoughts if self.parallel else sample_place_by_place
        along = think_along if self.parallel else place_by_place
        shared = {"places": places, "documents": known}
        with arithmetic(ids.device, self.autocast):
            thoughts = sample(
                self.model, ids, self.marks, length=config.thought_length, temperature=config.temperature,
                generator=generator, **shared,
            )  # fmt: skip
            found = along(
                self.model, ids, thoughts, self.marks, talk=config.talk_tokens, mark_shift=self.shift, **shared
            )
            reference = {"input_ids": ids, **({} if known is None else {"document_ids": known})}
            with torch.no_grad():
                before = self.before(**reference, use_cache=False).logits
        return quiet_loss(
            found,
            self.head,
            targets(labels, documents, places, config.talk_tokens),
            places,
            samples=config.samples,
            policy_weight=self.policy_weight,
            divergence_weight=config.divergence_weight,
            before=before,
            real=documents >= 0,
        )

    def _places(self, length: int, generator: torch.Generator) -> Tensor:
        """Positions that think, ascending; the last has nothing to predict."""
        count = self.config.places or length - 1
        return torch.randperm(length - 1, generator=generator)[:count].sort().values

    def _update(self, loss: Tensor, rate: float, figures: Mapping[str, float]) -> None:
        if not math.isfinite(float(loss.detach())):
            message = f"the loss is {float(loss.detach())}; lower quietstar.learning_rate"
            raise PhaseFailed("quietstar", self.step, message)
        self.optimizer.set_rate(rate)
        self.optimizer.zero_grad(set_to_none=True)
        self.mark_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.step % LOG_EVERY == 0:
            self.context.log({**figures, "quietstar/rate": rate, "quietstar/loss": float(loss.detach())}, self.step)

    @torch.no_grad()
    def _fold_marks(self) -> None:
        """The marks' own step, moved into the table."""
        self.mark_optimizer.step()
        table: Any = self.model.get_input_embeddings().weight
        for mark, row in zip((self.marks.opening, self.marks.closing), self.shift, strict=True):
            table[mark] += row.to(table.dtype)
        self.shift.zero_()

    def _roll_back(self, why: str) -> None:
        assert self._good is not None
        again = self.watch.rolled_back(why)
        weight = self.policy_weight / 2 if again else 0.0
        message = f"{why}; back to the last good state, policy weight {self.policy_weight:g} → {weight:g}"
        self.context.warn("PR3-D", message, restores=float(self.watch.restores), policy_weight=weight)
        self._load(self._good)
        self.policy_weight = weight

    def _keep(self) -> None:
        self._good = self._weights()
        position = {"policy_weight": self.policy_weight, "watch": self.watch.state()}
        self.context.checkpoint({**self._good, "position": position}, self.step)

    def _weights(self) -> dict[str, Any]:
        weights = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        head = {name: p.detach().clone() for name, p in self.head.named_parameters()}
        optimizers = {"model": self.optimizer.state_dict(), "marks": self.mark_optimizer.state_dict()}
        return {"weights": weights, "head": head, "optimizers": copied(optimizers)}

    @torch.no_grad()
    def _load(self, state: Mapping[str, Any]) -> None:
        for module, values in ((self.model, state["weights"]), (self.head, state["head"])):
            parameters = dict(module.named_parameters())
            for name, value in values.items():
                parameters[name].copy_(value)
        self.optimizer.load_state_dict(copied(state["optimizers"]["model"]))
        self.mark_optimizer.load_state_dict(copied(state["optimizers"]["marks"]))

    def _resume(self) -> None:
        found = self.context.restore()
        if found is None:
            return
        state, self.step = found
        self._good = {name: state[name] for name in ("weights", "head", "optimizers")}
        self._load(self._good)
        self.policy_weight = float(state["position"]["policy_weight"])
        self.watch.load_state(dict(state["position"]["watch"]))

"""The course of phase 5: ten stages of assessment, practice and dreams, and the way back when training diverges.

Everything that a run needs to go on is in its state; batches, disturbances and draws are functions of (seed, stage,
step). So a run that was killed goes on from its newest state and ends with the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from agent_forge.contract import Context
from agent_forge.data.packing import IGNORED, Batches
from agent_forge.errors import Interrupted, PhaseFailed
from agent_forge.model.forward import on_device
from agent_forge.optim import schedules
from agent_forge.optim.ternary_training import stall
from agent_forge.phases.forge.chaos import Chaos, sensitivity
from agent_forge.phases.forge.config import ForgePhaseConfig
from agent_forge.phases.forge.dreams import Rhythm
from agent_forge.phases.forge.edge_of_chaos import Tally, by_kind, edge_level, gradient_noise, passed_levels, uniform
from agent_forge.phases.forge.examiner import Examiner, question_json, question_of
from agent_forge.phases.forge.learner import Learner
from agent_forge.phases.forge.lineage import Lineage
from agent_forge.phases.forge.night import Night
from agent_forge.phases.forge.practice import Plan, Practice, ordinary_rows
from agent_forge.phases.forge.questions import Question
from agent_forge.phases.forge.self_modelling import layers_of
from agent_forge.phases.forge.stability import Alarm, Stability
from agent_forge.phases.forge.tool_dialogues import wants_tools

LOG_EVERY = 10


class Course:
    """Takes a learner through its stages.

    Args:
        config: of the phase.
        context: of the phase run.
        learner: student and optimizer.
        examiner: asks the student.
        practice: makes batches.

    Attributes:
        watched: questions of the selection split; accuracy on them decides what is undone.
        tested: questions of the test split; nothing is decided by them.
        best: best accuracy by level on the watched questions, of levels that were passed.
        when_passed: right or wrong by level, question by question of the test split, when the level was passed.
        rows: one row of figures for each finished stage.
        passed: levels that an assessment passed.
    """

    def __init__(
        self, config: ForgePhaseConfig, context: Context, learner: Learner, examiner: Examiner, practice: Practice
    ) -> None:
        self.config, self.context, self.learner = config, context, learner
        self.examiner, self.practice = examiner, practice
        self.levels = list(range(1, config.top_level + 1))
        self.chaos = Chaos(config.chaos, wanted=config.edge_success, gain=config.chaos_gain)
        self.rhythm = Rhythm(config.dream_every)
        self.stability = Stability(window=config.loss_window, variance=config.loss_variance)
        self.tested = practice.questions.held_out(self.levels, "test", config.test_questions)
        self.watched = practice.questions.held_out(self.levels, "selection", config.validation_questions)
        self.night = Night(config, learner, examiner, practice)
        self.stage = self.step = self.skipped = self.edge = 0
        self.rate_factor = 1.0
        self.starts = dict.fromkeys(self.levels, 0)
        self.plan: Plan | None = None
        self.tally = Tally()
        self.lines: list[tuple[Lineage, Question]] = []
        self.best: dict[int, float] = {}
        self.when_passed: dict[int, list[bool]] = {}
        self.passed: set[int] = set()
        self.rows: list[dict[str, Any]] = []
        self._kept: dict[str, Any] = {}
        self._warned = False

    @property
    def steps_in_stage(self) -> int:
        """Training steps of the running stage, its dream's steps taken off."""
        asleep = self.night.steps if self.rhythm.due(self.stage) else 0
        return max(1, self.config.stage_steps - asleep)

    def run(self) -> None:
        """Goes from where the newest state stands to the end."""
        self._resume()
        while self.stage < self.config.stages:
            if self.plan is None:
                self._begin_stage()
            self._practise()
            self._end_stage()

    def batch(self, batches: Batches, number: int) -> Mapping[str, Tensor]:
        """The batch of that number in the running stage, on the device."""
        return on_device(self.context.device, {**batches.batch(number), "ordinary": ordinary_rows(batches, number)})

    def _begin_stage(self) -> None:
        """Assesses, moves chaos and edge, lets the student answer, and makes the plan."""
        config, seed = self.config, self._seed("stage")
        found, self.starts = self.examiner.assess(self.levels, self.edge or 1, config.assessment_questions, self.starts)
        success = self._note_answers(found)
        self.edge = edge_level(success, wanted=config.edge_success, advance=config.advance_success)
        if config.chaos_gain > 0:
            self.chaos.follow(success.get(self.edge, 0.0))
        else:
            self.chaos.settle(config.chaos)
        shares = {"": uniform(self.levels)}
        if config.sampling != "uniform":
            rates = self.tally.rates() if config.sampling == "edge" else {"": success}
            shares = by_kind(
                rates,
                self.levels,
                wanted=config.edge_success,
                advance=config.advance_success,
                easy=config.easy_fraction,
                hard=config.hard_fraction,
                spread=self.chaos.value,
            )
        own = self._answer_at_the_edge(seed) if config.own_answers else []
        self.plan = Plan(self.stage, self.edge, shares, dict(self.starts), own, success)
        known = [n for n in self.levels if n <= self.edge and n in {*passed_levels(success), *self.passed}]
        self._note_passed(known)
        self.stability.begin_stage()
        # A stage that went well earns back half of what an alarm took.
        self.rate_factor = min(1.0, 2 * self.rate_factor)
        self.step = self.skipped = 0
        self._keep()

    def _note_answers(self, found: Mapping[str, Mapping[int, tuple[int, int]]]) -> dict[int, float]:
        """Adds an assessment to the tally; gives its own success by level, all kinds together."""
        self.tally = self.tally.after(found)
        levels = sorted({n for own in found.values() for n in own})
        right = {n: [own[n] for own in found.values() if n in own] for n in levels}
        return {n: sum(r for r, _ in rows) / sum(asked for _, asked in rows) for n, rows in right.items()}

    def _answer_at_the_edge(self, seed: int) -> list[Any]:
        while len(self.lines) < self.config.own_answers:
            asked, self.starts[self.edge] = self.examiner.questions.draw(self.edge, "train", 32, self.starts[self.edge])
            room = self.config.own_answers - len(self.lines)
            alone = [question for question in asked if not wants_tools(question)]
            self.lines += [(Lineage(self.edge, question.task.kind), question) for question in alone[:room]]
            if not alone:
                break
        self.lines, own = self.examiner.practise(
            self.lines, temperature=self.config.own_temperature, seed=seed, starts=self.starts
        )
        return own

    def _note_passed(self, known: list[int]) -> None:
        fresh = [n for n in known if n not in self.best]
        for level, accuracy in self.examiner.accuracy({n: self.watched[n] for n in fresh}).items():
            self.best[level] = accuracy
        self.when_passed |= self.examiner.answers({n: self.tested[n] for n in fresh})
        self.passed |= set(known)

    def _practise(self) -> None:
        assert self.plan is not None
        batches, after = self.practice.batches(self.plan)
        while self.step < self.steps_in_stage:
            if self.context.should_stop():
                raise Interrupted(f"stopped in stage {self.stage} of phase forge; the newest state is saved")
            # Weights are known to be sound once a batch has been read with them: they are copied before, kept after.
            due = self.step > 0 and self.step % self.config.checkpoint_every == 0
            snapshot = (self._snapshot(), self._position()) if due else None
            sound = self._one_step(batches)
            if snapshot and sound and self.stability.calm:
                self._kept = snapshot[0]
                self.context.checkpoint(*snapshot)
        self.starts = {level: max(after[level], start) for level, start in self.starts.items()}
        self._look_closer(batches)

    def _one_step(self, batches: Batches) -> bool:
        """One step; False where it led back to a stable state."""
        watched = self.step % LOG_EVERY == 0
        if watched and not self.config.chaos_gain:  # nobody asked for more than the configuration says
            self.chaos.value = min(self.chaos.value, self.config.chaos)
        rate = self._rate() * self.rate_factor
        try:
            figures = self.learner.step(
                self.batch(batches, self.step + self.skipped),
                rate=rate,
                chaos=self.chaos.value,
                generator=self.context.generator(f"forge-{self.stage}-{self.step + self.skipped}"),
                watch=watched,
            )
        except ValueError:  # a scale beyond what fp16 can hold
            self._restore(Alarm("broken weights", math.inf, 65504.0))
            return False
        if not figures:
            self.step += 1
            return True
        alarm = self.stability.look(figures["forge/loss"], figures["forge/gradient_norm"])
        if alarm is not None:
            self._restore(alarm)
            return False
        total = self._position()
        if watched:
            self.context.log({**figures, "forge/rate": rate, "forge/chaos": self.chaos.value}, total)
            self._watch_gradients(figures["forge/gradient_share"])
        self.step += 1
        self.context.progress(total + 1, self.config.stages * self.config.stage_steps, f"level {self.edge}")
        return True

    def _look_closer(self, batches: Batches) -> None:
        """Once a stage: does the gradient agree with itself, and does the network amplify small differences?"""
        first, second = (self.batch(batches, self.steps_in_stage + place) for place in (0, 1))
        if not all(bool((batch["labels"][:, 1:] != IGNORED).any()) for batch in (first, second)):
            return
        noise = gradient_noise(self.learner.gradients(first), self.learner.gradients(second))
        grown = sensitivity(self.learner.student, first, len(layers_of(self.learner.student)))
        self.context.log({"forge/gradient_noise": noise, "forge/sensitivity": grown}, self._position())

    def _end_stage(self) -> None:
        """Dreams, asks what was learnt before, and goes on to the next stage."""
        assert self.plan is not None
        row: dict[str, Any] = {"stage": self.stage, "edge": self.edge, "chaos": self.chaos.value}
        if self.rhythm.due(self.stage):
            known = {n: self.watched[n] for n in self.levels if n < self.edge or n in self.passed}
            result = self.night.sleep(self.stage, known, rate=self._rate() * self.rate_factor)
            if result is not None:
                self.rhythm = self.rhythm.after(result.before, result.after, self.config.dream_tolerance)
                row["dream"] = result.to_json()
                if result.undone:
                    message = f"accuracy on earlier levels fell from {result.before:.3f} to {result.after:.3f}"
                    self.context.warn("PR5", f"a dream was undone: {message}; dreams become rarer", **result.figures())
        now = self.examiner.accuracy({n: self.watched[n] for n in sorted(self.best)})
        alarm = self.stability.look_at_accuracy(self.best, now)
        if alarm is not None:
            self._restore(alarm)
            self._practise()
            return self._end_stage()
        self.best = {n: max(best, now.get(n, 0.0)) for n, best in self.best.items()}
        loss = self.examiner.answer_loss({self.edge: self.watched[self.edge]}, self.config.sequence_length)
        row |= {
            "success": dict(self.plan.success),
            "accuracy": now,
            "answer_loss": loss,
            "restores": self.stability.restores,
        }
        self.rows.append(row)
        self.context.log({"forge/edge": self.edge, "forge/answer_loss": loss}, self._position())
        self.stage, self.plan, self.step, self.skipped = self.stage + 1, None, 0, 0
        self._keep()
        return None

    def _restore(self, alarm: Alarm) -> None:
        """Back to the newest stable state, with half the chaos, past the data that led here; the second time in a stage
        with half the rate, too.
        """
        failed, sound = self._position(), self.stability.record(alarm)
        self.context.warn("CF2", f"stage {self.stage}: {alarm.sentence()}", **{"measured": alarm.measured})
        if not sound:
            causes = "; ".join(self.stability.history[-4:])
            raise PhaseFailed(
                "forge", failed, f"training diverged again after three returns to a stable state: {causes}; "
                "lower forge.learning_rate or forge.chaos"
            )  # fmt: skip
        self.learner.training.load_state(self._kept)
        at = int(self._kept["position"]["step"])
        self.skipped += self.step - at + 1
        self.step = at
        self.chaos.halve()
        if self.stability.restores > 1:
            self.rate_factor *= 0.5

    def _rate(self) -> float:
        done = self._position() / (self.config.stages * self.config.stage_steps)
        return schedules.multiplier("cosine", done, warmup_fraction=self.config.warmup_fraction, floor=0.1)

    def _position(self) -> int:
        return self.stage * self.config.stage_steps + self.step

    def _seed(self, name: str) -> int:
        return self.context.generator(f"forge-{name}-{self.stage}").initial_seed() % (1 << 31)

    def _watch_gradients(self, share: float) -> None:
        if not self._warned and (message := stall(share)):
            self._warned = True
            self.context.warn("RISK-004", message, gradient_share=share)

    def _keep(self) -> None:
        self._kept = self._snapshot()
        self.context.checkpoint(self._kept, self._position())

    def _snapshot(self) -> dict[str, Any]:
        position = {
            "stage": self.stage,
            "step": self.step,
            "skipped": self.skipped,
            "edge": self.edge,
            "rate_factor": self.rate_factor,
            "chaos": self.chaos.value,
            "rhythm": self.rhythm.to_json(),
            "stability": self.stability.state(),
            "starts": {str(n): start for n, start in self.starts.items()},
            "best": {str(n): best for n, best in self.best.items()},
            "when_passed": json.dumps(self.when_passed),
            "passed": sorted(self.passed),
            "plan": self.plan.to_json() if self.plan else "",
            "lines": json.dumps([[line.to_json(), question_json(question)] for line, question in self.lines]),
            "tally": self.tally.to_json(),
            "rows": json.dumps(self.rows),
        }
        return {**self.learner.training.state(), "position": position}

    def _resume(self) -> None:
        found = self.context.restore()
        if found is None:
            return
        self._kept = found[0]
        self.learner.training.load_state(self._kept)
        position = self._kept["position"]
        self.stage, self.step, self.skipped = (int(position[name]) for name in ("stage", "step", "skipped"))
        self.edge, self.rate_factor = int(position["edge"]), float(position["rate_factor"])
        self.chaos.value = float(position["chaos"])
        self.rhythm = Rhythm(**{name: int(value) for name, value in position["rhythm"].items()})
        self.stability.load_state(position["stability"])
        self.starts = {int(n): int(start) for n, start in position["starts"].items()}
        self.best = {int(n): float(best) for n, best in position["best"].items()}
        self.when_passed = {int(n): answers for n, answers in json.loads(position["when_passed"]).items()}
        self.passed = {int(n) for n in position["passed"]}
        self.plan = Plan.from_json(position["plan"]) if position["plan"] else None
        self.lines = [(Lineage(**line), question_of(asked)) for line, asked in json.loads(position["lines"])]
        self.tally = Tally.from_json(position["tally"])
        self.rows = json.loads(position["rows"])

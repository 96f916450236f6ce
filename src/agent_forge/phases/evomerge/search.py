"""The search itself, with everything that it shares: evolution, refinement, control, choice of the champion.

State is one mapping, raw figures by genotype digest. A killed run replays the same steps, answered from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agent_forge.contract import Context, canonical_json
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Document
from agent_forge.errors import DataError, Interrupted
from agent_forge.optim.precision import training_precision
from agent_forge.phases.evomerge.candidate import ParentTensors, Resident
from agent_forge.phases.evomerge.config import EvomergeConfig
from agent_forge.phases.evomerge.evolution import Evolution, Generation, Individual, random_search
from agent_forge.phases.evomerge.fitness import EvaluationTexts, Fitness, Measured, ask_tasks
from agent_forge.phases.evomerge.genotype import Genotype, average_genotype, parent_genotype, trunk_genotype
from agent_forge.phases.evomerge.memory_watch import MemoryWatch, resident_bytes
from agent_forge.phases.evomerge.refinement import refine

CONTROL_STEP = 10_000  # checkpoints of the control are numbered from here on


class Search:
    """Evolution against its control.

    Args:
        config: of the phase.
        context: of the phase run.
        parents: tensors of parents and trunk.
        model: a model of the parents' architecture; becomes the resident one.
        tokenizer: the parents'.
        corpus: selection and test split are read.

    Attributes:
        further_domains_fraction: domains whose finalists are compared on documents that did not rank them.

    Raises:
        DataError: no domain has documents in both splits.
    """

    def __init__(
        self,
        config: EvomergeConfig,
        context: Context,
        parents: ParentTensors,
        model: Any,
        tokenizer: Any,
        corpus: Corpus,
    ) -> None:
        self.config, self.context, self.parents, self.tokenizer = config, context, parents, tokenizer
        self.space = parents.space(config.layer_groups, config.extra_layers)
        self.originals = [parent_genotype(number, self.space) for number in range(parents.count)]
        self.trunk = trunk_genotype(self.space)
        self.resident = Resident(model, parents, self.space)
        self.fitness, self.final, self.test = self._evaluations(corpus)
        self.history: list[Generation] = []
        self.pool: list[Individual] = []
        self.random: list[Individual] = []
        self.evolution = Evolution(
            self.space,
            self.fitness,
            context.seed,
            config.population,
            config.generations,
            config.patience,
            config.minimum_gain,
            config.minimum_diversity,
            config.mutation_rate,
            [*self.originals, self.trunk, average_genotype(self.space)],
        )
        self.step = -1
        self._restore()

    def _evaluations(self, corpus: Corpus) -> tuple[Fitness, Fitness, EvaluationTexts]:
        """Ranking, choice among finalists, and test, on documents of their own."""
        config = self.config
        domains = [d for d in corpus.domains if all(corpus.documents(d, s) for s in ("selection", "test"))]
        if not domains:
            raise DataError(f"no domain of {corpus.domains} has documents in both selection and test split")
        first, further = {}, {}
        for domain in domains:
            documents = corpus.documents(domain, "selection")
            first[domain] = documents[: config.selection_documents]
            rest = documents[config.selection_documents :]
            further[domain] = rest[: config.final_documents] or first[domain]
        reused = [domain for domain in domains if further[domain] is first[domain]]
        self.further_domains_fraction = 1 - len(reused) / len(domains)
        if reused:
            message = (
                f"no further selection documents of {', '.join(reused)}: finalists are compared on those that ranked"
            )
            self.context.warn("few documents", message, domains=float(len(reused)))
        tasks = [task for domain in domains for task in corpus.tasks(domain, "selection")]
        asked = tasks[:: max(1, len(tasks) // config.num_tasks)][: config.num_tasks] if config.num_tasks else []
        ask = ask_tasks(self.tokenizer, asked, config.task_tokens)
        weights = config.fitness.model_dump()
        ranking = Fitness(self.resident, self._texts(first), weights, ask, config.above_chance)
        final = Fitness(self.resident, self._texts(further), weights, ask, config.above_chance)
        test = {domain: corpus.documents(domain, "test")[: config.test_documents] for domain in domains}
        return ranking, final, EvaluationTexts(self.tokenizer, test, max_length=config.max_length)

    def _texts(self, documents: Mapping[str, Sequence[Document]]) -> EvaluationTexts:
        import torch

        lower = training_precision(self.config.precision, self.context.device)
        autocast = None if lower == torch.float32 else lower
        return EvaluationTexts(self.tokenizer, documents, max_length=self.config.max_length, autocast=autocast)

    def _restore(self) -> None:
        """Raw figures by digest are the whole state: the search replays itself from them."""
        found = self.context.restore()
        if found is not None:
            state, self.step = found
            figures = json.loads(state["measured"])
            self.fitness.measured = {digest: Measured.from_json(value) for digest, value in figures.items()}
            self.evolution.population_of = {int(g): int(p) for g, p in json.loads(state["population_of"]).items()}

    def _save(self, step: int) -> None:
        """A checkpoint, unless this step is only replayed; stops here if the user asked for it."""
        if step <= self.step:
            return
        self.step = step
        figures = {digest: measured.to_json() for digest, measured in self.fitness.measured.items()}
        sizes = {str(generation): size for generation, size in self.evolution.population_of.items()}
        state = {"measured": canonical_json(figures), "population_of": canonical_json(sizes)}
        self.context.checkpoint(state, step)
        if self.context.should_stop():
            raise Interrupted(f"evomerge stopped after step {step}; every evaluation so far is kept")

    def evolve(self) -> None:
        """Generations, then CMA-ES where the strategy has it."""
        self.fitness.set_reference(self.originals)
        watch = MemoryWatch(
            self.context.budget.bytes,
            self.config.memory_fraction,
            [("disk population", self._to_disk), ("smaller population", self._shrink)],
        )
        for generation in self.evolution.run():
            self.history.append(generation)
            self.pool += generation.members
            if generation.number > self.step:
                self._show(generation)
                taken = watch.look()
                if taken is not None:
                    self.context.warn("CF1", f"memory is short: {taken[0]}", used_fraction=taken[1])
                self._save(generation.number)
        self.pool.append(self.history[-1].best)
        if self.config.strategy == "evolution+cma":
            best, count = self.history[-1].best.genotype, self.config.refinement_evaluations
            for number, tried in enumerate(
                refine(best, self.space, self.fitness, evaluations=count, seed=self.context.seed + 1)
            ):
                self.pool.append(tried)
                self._save(len(self.history) + number)

    def _to_disk(self) -> bool:
        if not self.parents.in_memory:
            return False
        self.parents.to_disk()
        return True

    def _shrink(self) -> bool:
        current = min([self.config.population, *self.evolution.population_of.values()])
        if current <= 4:
            return False
        self.evolution.shrink(self.history[-1].number + 1, current // 2)
        return True

    def _show(self, generation: Generation) -> None:
        fitness = [max(member.fitness, 0.0) for member in generation.members]
        figures = {
            "evomerge/best_fitness": generation.best.fitness,
            "evomerge/mean_fitness": sum(fitness) / len(fitness),
            "evomerge/diversity": generation.diversity,
            "evomerge/mutation_rate": generation.mutation_rate,
            "evomerge/immigrants": float(generation.immigrants),
            "evomerge/population": float(len(generation.members)),
            "evomerge/resident_bytes": float(resident_bytes()),
        }
        self.context.log(figures, generation.number)
        note = f"generation {generation.number}, best fitness {generation.best.fitness:.4f}"
        self.context.progress(generation.number + 1, 2 * (self.config.generations + 1), note)

    def control(self) -> None:
        """Random search with as many evaluations as evolution had."""
        evaluated = {individual.genotype.digest for individual in self.pool}
        count = round(len(evaluated) * self.config.control_fraction)
        for number, individual in enumerate(
            random_search(self.space, self.fitness, count, self.context.seed, self.evolution.cache)
        ):
            self.random.append(individual)
            if number % 8 == 7:
                self._save(CONTROL_STEP + number)
                self.context.progress(count + number, 2 * count, f"control {number + 1} of {count}")

    def choose(self) -> tuple[Genotype, Genotype | None]:
        """The best of evolution's finalists and of the control's, on further documents.

        Both may take what evolution starts from (parents, trunk, mean): a margin over the control is then a margin that
        the generations brought, and not what any merge has over a wild draw.
        """
        self.final.set_reference(self.originals)
        champion = self._best_of([*self.evolution.anchors, *self._finalists(self.pool)])
        if not self.random:
            return champion, None
        return champion, self._best_of([*self.evolution.anchors, *self._finalists(self.random)])

    def _finalists(self, individuals: Sequence[Individual]) -> list[Genotype]:
        ranked = sorted(individuals, key=lambda one: (-one.fitness, one.genotype.digest))
        return list({one.genotype.digest: one.genotype for one in ranked}.values())[: self.config.finalists]

    def _best_of(self, genotypes: Sequence[Genotype]) -> Genotype:
        return max(genotypes, key=lambda genotype: (self.final_fitness(genotype), genotype.digest))

    def final_fitness(self, genotype: Genotype) -> float:
        """Fitness on the further documents."""
        return max(self.final(genotype), 0.0)

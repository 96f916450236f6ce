"""Phase 2: three specialists and their trunk become one champion.

1. Parents are checked against each other and read once. 2. Genotypes evolve on the selection split.
3. A control draws as many genotypes at random. 4. The finalists are compared on further documents of that split.
5. Champion, parents, trunk and control are measured once on the test split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from agent_forge.contract import Artifacts, Context, digests, many, one
from agent_forge.data.corpora import Corpus
from agent_forge.errors import DataError
from agent_forge.phases.evomerge import DECLARATION
from agent_forge.phases.evomerge.candidate import ParentTensors
from agent_forge.phases.evomerge.checkpoint_folder import CheckpointFolder
from agent_forge.phases.evomerge.comparison import compare_on_test
from agent_forge.phases.evomerge.config import EvomergeConfig
from agent_forge.phases.evomerge.evolution import family_tree
from agent_forge.phases.evomerge.genotype import Genotype
from agent_forge.phases.evomerge.recursion_range import outside_range, recursion_statistics
from agent_forge.phases.evomerge.search import Search


class EvomergePhase:
    """Evolutionary merging; see the module."""

    name: ClassVar[str] = DECLARATION.name
    version: ClassVar[int] = DECLARATION.version
    consumes: ClassVar[Mapping[str, str]] = DECLARATION.consumes
    produces: ClassVar[Mapping[str, str]] = DECLARATION.produces

    def run(self, config: EvomergeConfig, inputs: Artifacts, context: Context) -> Artifacts:
        """Evolves, compares, reports and saves the champion.

        Raises:
            HandoffError: the checkpoints do not fit together.
            DataError: the corpus has no documents to select or to test on.
        """
        trunk, specialists = one(inputs, "trunk"), many(inputs, "specialists")
        parents = ParentTensors(
            CheckpointFolder(context.path(trunk)), [CheckpointFolder(context.path(parent)) for parent in specialists]
        )
        model, tokenizer = context.load_model(trunk)
        corpus = Corpus.open(context.path(one(inputs, "corpus")))
        search = Search(config, context, parents, model, tokenizer, corpus)
        search.evolve()
        search.control()
        champion, rival = search.choose()
        figures = _measured(search, champion, rival)
        context.report({f"evomerge/{name}": value for name, value in figures.items()})
        facts = {
            "fitness": figures["fitness"],
            "merge_technique": champion.to_json(),
            "generations": search.history[-1].number,
            "fitness_curve": [generation.best.fitness for generation in search.history],
            "parents": digests(specialists),
            "trunk": trunk.digest,
        }
        return {"model": context.save_model(search.resident.become(champion), tokenizer, **facts)}


def _measured(search: Search, champion: Genotype, rival: Genotype | None) -> dict[str, float]:
    """The test split, once; figures for the gates, and attachments for the report page."""

    def scores(genotype: Genotype, who: str) -> Any:
        found = search.test.scores(search.resident.become(genotype))
        if found is None:
            raise DataError(f"{who} gives losses that are not finite on the test split")
        return found

    parents = [scores(genotype, f"parent {number}") for number, genotype in enumerate(search.originals)]
    trunk = scores(search.trunk, "the trunk")
    of_rival = None if rival is None else scores(rival, "the best of random search")
    figures, table = compare_on_test(scores(champion, "the champion"), parents, trunk, of_rival, search.context.seed)
    founders = [max(member.fitness, 0.0) for member in search.history[0].members]
    mean, best = sum(founders) / len(founders), max(search.fitness(champion), 0.0)
    figures |= {
        "fitness": search.final_fitness(champion),
        "fitness_gain_over_generation_0": (best - mean) / mean if mean > 0 else float(best > 0),
        "generations": float(search.history[-1].number),
        "further_domains_fraction": search.further_domains_fraction,
        "converged": float(search.history[-1].converged),
        "evaluations": float(len(search.fitness.measured)),
        "diversity_until_convergence": min(generation.diversity for generation in search.history),
    }
    search.context.attach("fitness", _curve(search))
    search.context.attach("family_tree", family_tree(search.history, champion))
    search.context.attach("champion", {"genotype": champion.to_json(), **table})
    return figures | recursion_figures(search, champion)


def _curve(search: Search) -> list[dict[str, float]]:
    """Fitness by generation, for the report page."""
    rows = []
    for generation in search.history:
        fitness = [max(member.fitness, 0.0) for member in generation.members]
        rows.append(
            {
                "generation": float(generation.number),
                "best": generation.best.fitness,
                "mean": sum(fitness) / len(fitness),
                "worst": min(fitness),
                "diversity": generation.diversity,
                "immigrants": float(generation.immigrants),
            }
        )
    return rows


def recursion_figures(search: Search, champion: Genotype) -> dict[str, float]:
    """Failure G1: halting and gate statistics outside the parents' range. Nothing for models without them."""
    ids = search.test.sample_ids()
    parents = [recursion_statistics(search.resident.become(genotype), ids) for genotype in search.originals]
    found = recursion_statistics(search.resident.become(champion), ids)
    if not found:
        return {}
    outside = outside_range(found, parents)
    for name, (value, low, high) in outside.items():
        message = f"{name} of the champion leaves the parents' range"
        search.context.warn("G1", message, value=value, low=low, high=high)
    return {"halting_inside_parents_range": float(not outside)}


PHASE = EvomergePhase()

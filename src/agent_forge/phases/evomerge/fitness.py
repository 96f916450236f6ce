"""What a candidate is worth: each component relative to the best single parent, on the selection split.

Every component is 1 at the best parent and 0 at "useless": 0.7 means "70% of the best parent", 1.05 "5% better
than it". The best parent is the one with the lowest bits per byte on the mean of all domains.

- ``quality``: 1 / mean over domains of bits per byte (candidate) / bits per byte (best parent): ranks as the
  mean relative gain does, and stays positive.
- ``accuracy``: tasks right (candidate) / tasks right (best parent), at most 2; counts only if the best parent
  gets enough of them right to be above chance.
- ``speed``, ``memory``: layers (parents) / layers (candidate); count only where the data flow may change the
  depth. Layers, not seconds: with a clock in the fitness, two runs of one seed would find different champions.

The weights of components that do not count are shared out among those that do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_forge.data.tokenizer import encode_documents, start_ids
from agent_forge.evaluation.bits_per_byte import Score, sliding, window_nats
from agent_forge.phases.evomerge.candidate import Resident
from agent_forge.phases.evomerge.evolution import WORST
from agent_forge.phases.evomerge.genotype import Genotype

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from agent_forge.data.documents import Document, Task

SPECIFICATION = {"quality": 0.4, "accuracy": 0.3, "speed": 0.2, "memory": 0.1}
"""The specification's weights, a preset."""


@dataclass(frozen=True)
class Measured:
    """Raw figures of one candidate on the selection split.

    Attributes:
        bits_per_byte: by domain; infinite for a model that gives no finite loss.
        accuracy: fraction of the tasks answered right; None if none were asked.
        layers: depth of the candidate.
    """

    bits_per_byte: Mapping[str, float]
    accuracy: float | None
    layers: int

    @property
    def mean(self) -> float:
        """Bits per byte, mean over domains."""
        return sum(self.bits_per_byte.values()) / len(self.bits_per_byte)

    def to_json(self) -> dict[str, Any]:
        """JSON has no infinity: None instead."""
        finite = {name: value if value < float("inf") else None for name, value in self.bits_per_byte.items()}
        return {"bits_per_byte": finite, "accuracy": self.accuracy, "layers": self.layers}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measured:
        """The inverse of `to_json`."""
        bits = {name: float("inf") if v is None else float(v) for name, v in value["bits_per_byte"].items()}
        return cls(bits, value["accuracy"], int(value["layers"]))


class EvaluationTexts:
    """Texts by domain, tokenized once.

    Args:
        tokenizer: of all candidates.
        documents: by domain, at least one each.
        max_length: tokens that the model sees at once.
        autocast: e.g. ``torch.bfloat16``; None runs in the model's own precision.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        documents: Mapping[str, Sequence[Document]],
        *,
        max_length: int = 512,
        autocast: torch.dtype | None = None,
    ) -> None:
        import numpy

        self.autocast = autocast
        self.domains: list[str] = []
        self._owner: list[int] = []
        self._windows: list[tuple[int, list[int], int]] = []
        sizes: list[int] = []
        tokens: list[int] = []
        opening = len(start_ids(tokenizer))
        for place, (domain, texts) in enumerate(sorted(documents.items())):
            self.domains.append(domain)
            for document, encoded in zip(texts, encode_documents(tokenizer, texts), strict=True):
                number = len(sizes)
                self._owner.append(place)
                sizes.append(document.num_bytes)
                tokens.append(len(encoded.ids) - opening)
                self._windows += [(number, ids, tail) for ids, tail in sliding(encoded.ids, max_length)]
        self._sizes, self._tokens = numpy.asarray(sizes, numpy.int64), numpy.asarray(tokens, numpy.int64)
        self._unpredicted = 0.0 if opening else 1.0

    def sample_ids(self, windows: int = 4) -> Tensor:
        """[1, T] tokens: a few windows in a row."""
        import torch

        return torch.tensor([[token for _, ids, _ in self._windows[:windows] for token in ids]])

    def scores(self, model: PreTrainedModel) -> dict[str, Score] | None:
        """Each domain's score from one pass over all texts; None if the model gives logits that are not finite."""
        import numpy

        nats = numpy.full(len(self._sizes), self._unpredicted * numpy.log(model.config.vocab_size))
        try:
            for number, found in window_nats(model, self._windows, autocast=self.autocast):
                nats[number] += found
        except FloatingPointError:
            return None
        owner = numpy.asarray(self._owner)
        return {
            domain: Score.of(nats[owner == place], self._sizes[owner == place], self._tokens[owner == place])
            for place, domain in enumerate(self.domains)
        }


@dataclass
class Fitness:
    """Genotype → fitness, remembered by digest.

    Attributes:
        resident: the model that candidates are written into.
        texts: of the selection split.
        weights: of the components; see the module.
        ask: model → fraction of the tasks answered right; None asks nothing.
        above_chance: the accuracy that the best parent must reach for tasks to count.
        measured: digest → raw figures; what a checkpoint keeps.
        reference: figures of the best single parent, from `set_reference`.
    """

    resident: Resident
    texts: EvaluationTexts
    weights: Mapping[str, float]
    ask: Callable[[PreTrainedModel], float] | None = None
    above_chance: float = 0.05
    measured: dict[str, Measured] = field(default_factory=dict)
    reference: Measured | None = None

    def measure(self, genotype: Genotype) -> Measured:
        """Raw figures, from memory if this recipe was measured before."""
        digest = genotype.digest
        if digest not in self.measured:
            model = self.resident.become(genotype)
            scores = self.texts.scores(model)
            bits = {d: float("inf") if scores is None else scores[d].bits_per_byte for d in self.texts.domains}
            accuracy = None if self.ask is None else 0.0 if scores is None else self.ask(model)
            self.measured[digest] = Measured(bits, accuracy, len(genotype.path))
        return self.measured[digest]

    def set_reference(self, parents: Sequence[Genotype]) -> int:
        """Measures the parents and takes the best one as 1; gives its number."""
        figures = [self.measure(parent) for parent in parents]
        best = min(range(len(figures)), key=lambda number: (figures[number].mean, number))
        self.reference = figures[best]
        return best

    def components(self, measured: Measured) -> dict[str, float]:
        """Every component that counts, relative to the reference."""
        assert self.reference is not None
        ratios = [measured.bits_per_byte[d] / self.reference.bits_per_byte[d] for d in self.texts.domains]
        found = {"quality": len(ratios) / sum(ratios)}
        best = self.reference.accuracy
        if best is not None and measured.accuracy is not None and best >= self.above_chance:
            found["accuracy"] = min(measured.accuracy / best, 2.0)
        if self.resident.space.extra_layers:
            found["speed"] = found["memory"] = self.reference.layers / measured.layers
        return found

    def __call__(self, genotype: Genotype) -> float:
        """The weighted mean of the components; minus infinity for a model without finite loss."""
        measured = self.measure(genotype)
        if measured.mean == float("inf"):
            return WORST
        found = self.components(measured)
        total = sum(self.weights.get(name, 0.0) for name in found)
        return sum(self.weights.get(name, 0.0) * value for name, value in found.items()) / total


def ask_tasks(
    tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Task], max_tokens: int
) -> Callable[[PreTrainedModel], float] | None:
    """A function that asks all tasks and gives the fraction answered right; None if there are no tasks."""
    if not tasks:
        return None
    from agent_forge.evaluation.tasks import exact_match

    return lambda model: exact_match(model, tokenizer, tasks, max_tokens).accuracy

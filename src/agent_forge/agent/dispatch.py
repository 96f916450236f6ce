"""Two passes: what is asked decides which expert answers.

Paper: Sun, Cetin and Tang 2025, "Transformer²" (arXiv:2501.06252, section 3.2: a first pass that recognises the task,
by a classifier or by a search over mixing weights on a few examples; a second that answers). The search is the
cross-entropy method (Rubinstein and Kroese 2004). The classifier is linear discriminant analysis (Fisher 1936; Hastie,
Tibshirani and Friedman 2009, section 4.3).

What we do differently:
1. The classifier reads the base model's own last layer, averaged over the question: a closed form and a few
   thousand numbers, where the paper asks the model by a prompt or trains another expert. The spread within classes gets
   a ridge, because a class may have fewer rows than there are features.
2. One class is "none of them": ordinary questions are answered by the base, and it is left only where another class
   is ahead by more than a bar, set on questions that the classifier was not fitted to.
3. A mixture is searched for on one half of the examples and judged on the other. Where it is not clearly better there
   than the base, the base is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.belongings import ROUTES
from agent_forge.data.documents import Document
from agent_forge.errors import HandoffError
from agent_forge.evaluation.answer_nats import answer_nats
from agent_forge.evaluation.tasks import prompt_ids
from agent_forge.model.decoder import Decoder
from agent_forge.model.expert_vectors import EXPERTS, Expert, applied, basis_of, load_experts, mixed
from agent_forge.model.forward import mean_hidden

BASE = "base"
_ROOM = "dispatch/"
# A mixture must be better than the base by so many standard errors of the judged examples.
_CLEARLY = 1.0


def question_features(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    *,
    max_tokens: int = 192,
    batch_tokens: int = 4096,
) -> Tensor:
    """What the base model makes of each question: its last layer, averaged over the question, float64 [N, d].

    Args:
        model: without an expert.
        tokenizer: its tokenizer.
        questions: what users say.
        max_tokens: the last so many tokens are read.
        batch_tokens: tokens in a batch at most.
    """
    rows = [ids[-max_tokens:] for ids in prompt_ids(tokenizer, questions)]
    return mean_hidden(model, rows, batch_tokens=batch_tokens)


@dataclass(frozen=True)
class Dispatcher:
    """A linear classifier over questions.

    Attributes:
        classes: names, `BASE` among them.
        weight: fp32 [C, d].
        bias: fp32 [C].
    """

    classes: tuple[str, ...]
    weight: Tensor
    bias: Tensor

    def choose(self, features: Tensor, available: Sequence[str] | None = None) -> list[str]:
        """The class of each row of `question_features`; one that is not available is answered by the base."""
        scores = features.float() @ self.weight.T + self.bias
        named = [self.classes[n] for n in scores.argmax(-1).tolist()]
        return named if available is None else [name if name in available else BASE for name in named]

    def to_tensors(self) -> dict[str, Tensor]:
        """For `agent_forge.model.expert_vectors.save_experts`."""
        names = "\n".join(self.classes).encode()
        return {
            f"{_ROOM}weight": self.weight,
            f"{_ROOM}bias": self.bias,
            f"{_ROOM}classes": torch.tensor(list(names), dtype=torch.uint8),
        }

    def save(self, folder: Path) -> Path:
        """Writes it as ``routes.safetensors``: the first pass of a design with routes, apart from any experts."""
        path = Path(folder) / ROUTES
        save_file(self.to_tensors(), path)
        return path

    @classmethod
    def open(cls, folder: Path, file: str = EXPERTS) -> Dispatcher | None:
        """The classifier of a checkpoint folder; None where there is none.

        Args:
            folder: of the checkpoint.
            file: the one that holds it: that of the experts, or ``routes.safetensors``.

        Raises:
            HandoffError: it cannot be read, or its parts do not fit each other.
        """
        path = Path(folder) / file
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as opened:
                if f"{_ROOM}weight" not in opened.keys():  # noqa: SIM118 - an opened file is no mapping
                    return None
                weight, bias = opened.get_tensor(f"{_ROOM}weight"), opened.get_tensor(f"{_ROOM}bias")
                classes = bytes(opened.get_tensor(f"{_ROOM}classes").tolist()).decode().split("\n")
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise HandoffError(f"{path} has no readable classifier of questions: {error}") from error
        return cls(tuple(classes), weight, bias).checked(str(path))

    def checked(self, where: str) -> Dispatcher:
        """Itself.

        Raises:
            HandoffError: its parts do not fit each other, or are not finite; ``where`` is named.
        """
        shape, bias = list(self.weight.shape), self.bias
        if BASE not in self.classes or shape[:-1] != list(bias.shape) or bias.shape != (len(set(self.classes)),):
            raise HandoffError(f"{where}: classes {list(self.classes)} do not fit weights of shape {shape}")
        if not bool(self.weight.isfinite().all() and bias.isfinite().all()):
            raise HandoffError(f"{where}: the classifier of questions holds values that are not finite")
        return self


def fit_dispatcher(features: Mapping[str, Tensor], *, ridge: float = 1.0) -> Dispatcher:
    """Linear discriminants: equal priors, one spread within all classes, every class with the same weight in it.

    Regression on one-hot classes would never choose a class that lies between two others (levels of one kind).

    Args:
        features: rows of `question_features` by class, `BASE` among them.
        ridge: added to the spread, in units of one standardised feature of one row of each class; above 0.

    Raises:
        ValueError: fewer than two classes, no `BASE`, a class without rows, or no ridge.
    """
    if len(features) < 2 or BASE not in features or any(not len(rows) for rows in features.values()):
        raise ValueError(f"at least two classes with rows are needed, {BASE!r} among them: {list(features)}")
    if not ridge > 0:
        raise ValueError(f"a ridge above 0 is needed, got {ridge}")
    classes = tuple(features)
    rows = torch.cat([features[name].double() for name in classes])
    owner = torch.cat([torch.full((len(features[name]),), n) for n, name in enumerate(classes)])
    share = 1.0 / torch.bincount(owner).double()[owner]
    share = share / share.sum()
    mean = (share[:, None] * rows).sum(0)
    scale = ((share[:, None] * (rows - mean) ** 2).sum(0)).sqrt().clamp(min=1e-6)
    x = (rows - mean) / scale
    centres = torch.stack([x[owner == n].mean(0) for n in range(len(classes))])
    inner = x - centres[owner]
    spread = inner.T @ (share[:, None] * inner)
    spread += ridge / len(rows) * len(classes) * torch.eye(x.shape[1], dtype=x.dtype)
    solved = torch.linalg.solve(spread, centres.T)
    weight = (solved / scale[:, None]).T
    bias = -0.5 * (centres.T * solved).sum(0) - weight @ mean
    return Dispatcher(classes, weight.float().contiguous(), bias.float())


def with_bar(dispatcher: Dispatcher, held: Mapping[str, Tensor]) -> Dispatcher:
    """The same classifier, which leaves the base only where another class is ahead of it by more than a bar.

    Densities that were fitted to few rows are sure of too much. The bar is the one that is right about most of the held
    questions, the base's and all others' counting alike; of several, the one farthest from any question.

    Args:
        dispatcher: of `fit_dispatcher`.
        held: rows of `question_features` by class, `BASE` among them, that the classifier was not fitted to.

    Raises:
        ValueError: no questions of the base, or none of anything else.
    """
    base = dispatcher.classes.index(BASE)

    def lead(rows: Tensor) -> Tensor:
        scores = rows.float() @ dispatcher.weight.T + dispatcher.bias
        others = scores[:, [n for n in range(scores.shape[1]) if n != base]]
        return others.amax(1) - scores[:, base]

    others = [rows for name, rows in held.items() if name != BASE and len(rows)]
    if not others or not len(held.get(BASE, ())):
        raise ValueError(f"held questions of {BASE!r} and of another class are needed, there are {list(held)}")
    ordinary, skilled = lead(held[BASE]), lead(torch.cat(others))
    steps = torch.cat([ordinary, skilled]).unique()
    bars, gaps = (steps[1:] + steps[:-1]) / 2, steps[1:] - steps[:-1]
    if not len(bars):
        return dispatcher
    right = torch.stack([(ordinary <= bar).float().mean() + (skilled > bar).float().mean() for bar in bars])
    best = right >= right.max() - 1e-6
    bar = bars[torch.where(best, gaps, -1.0).argmax()]
    bias = dispatcher.bias.clone()
    bias[base] += bar
    return Dispatcher(dispatcher.classes, dispatcher.weight, bias)


class TwoPass:
    """A model with its experts: asks which one, then computes with it.

    Args:
        model: the base.
        tokenizer: its tokenizer.
        experts: that can be used on it.
        dispatcher: of questions.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        experts: Sequence[Expert],
        dispatcher: Dispatcher,
    ) -> None:
        self.model, self.tokenizer, self.dispatcher = model, tokenizer, dispatcher
        self.experts = {expert.name: expert for expert in experts}

    @classmethod
    def open(cls, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TwoPass | None:
        """Of a checkpoint folder; None where it has no usable expert or no classifier."""
        experts, _ = load_experts(folder, model)
        dispatcher = Dispatcher.open(folder)
        return cls(model, tokenizer, experts, dispatcher) if experts and dispatcher else None

    def choose(self, questions: Sequence[str]) -> list[str]:
        """The first pass: the name of an expert, or `BASE`, for each question."""
        if not questions:
            return []
        return self.dispatcher.choose(question_features(self.model, self.tokenizer, questions), list(self.experts))

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """The second pass: within, the model computes with the expert of that name (`BASE`: as it is).

        Raises:
            KeyError: there is no such expert.
        """
        if name == BASE:
            yield
            return
        expert = self.experts[name]
        with applied(self.model, expert):
            yield


@dataclass(frozen=True)
class Mixing:
    """What a search over mixing weights came to.

    Attributes:
        weights: α of each expert; all zero where the base was taken.
        mixture: None where the base was taken.
        base_nats: per token, of the judged examples under the base.
        mixture_nats: the same under the best mixture that was found, taken or not.
        evaluations: mixtures that were tried.
    """

    weights: tuple[float, ...]
    mixture: Expert | None
    base_nats: float
    mixture_nats: float
    evaluations: int


def search_mixture(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    experts: Sequence[Expert],
    examples: Sequence[Document],
    *,
    generator: torch.Generator,
    population: int = 12,
    generations: int = 4,
    elite_fraction: float = 0.25,
    max_length: int = 128,
) -> Mixing:
    """The mixture for a task that is known by a few examples, or the base where no mixture is clearly better.

    Args:
        model: the base.
        tokenizer: its tokenizer.
        experts: at least one, all of this model.
        examples: of the task, at least 4, none of them used for a figure later.
        generator: of the draws.
        population: mixtures of a generation.
        generations: of the search.
        elite_fraction: the best share, from which the next generation is drawn.
        max_length: tokens of an example that are read.

    Raises:
        ValueError: fewer than 4 examples.
    """
    if len(examples) < 4:
        raise ValueError(f"a search needs at least 4 examples, got {len(examples)}: half of them are for judging")
    basis_of(model, max(len(z) for z in experts[0].vectors.values()))
    tried: dict[tuple[float, ...], float] = {}

    def cost(weights: tuple[float, ...]) -> float:
        if weights not in tried:
            with applied(model, mixed(experts, weights)):
                tried[weights] = answer_nats(model, tokenizer, examples[::2], max_length=max_length).mean
        return tried[weights]

    best = cross_entropy_search(
        cost, len(experts), generator=generator, population=population, generations=generations,
        elite_fraction=elite_fraction,
    )  # fmt: skip
    before = answer_nats(model, tokenizer, examples[1::2], max_length=max_length)
    mixture = mixed(experts, best)
    with applied(model, mixture):
        after = answer_nats(model, tokenizer, examples[1::2], max_length=max_length)
    taken = clearly_lower(after.nats, before.nats)
    return Mixing(
        best if taken else (0.0,) * len(experts), mixture if taken else None, before.mean, after.mean, len(tried)
    )


def cross_entropy_search(
    cost: Callable[[tuple[float, ...]], float],
    count: int,
    *,
    generator: torch.Generator,
    population: int,
    generations: int,
    elite_fraction: float,
) -> tuple[float, ...]:
    """Weights in [−0.5, 1.5] of least cost (Rubinstein and Kroese 2004); each alone and their mean are tried too.

    Args:
        cost: of weights; not finite counts as infinite.
        count: of weights.
        generator: of the draws.
        population: draws of a generation, at least 2.
        generations: at least 1.
        elite_fraction: best share that gives the next mean and spread, 0–1.

    Raises:
        ValueError: a size is out of range.
    """
    if count < 1 or population < 2 or generations < 1 or not 0 < elite_fraction <= 1:
        raise ValueError(f"cannot search {count} weights with {population} × {generations}, elite {elite_fraction}")
    known = [tuple(float(n == k) for k in range(count)) for n in range(count)] + [(1.0 / count,) * count]
    mean, spread = torch.full((count,), 0.5), torch.full((count,), 0.5)
    found: list[tuple[float, tuple[float, ...]]] = []
    for _ in range(generations):
        drawn = mean + spread * torch.randn(population, count, generator=generator)
        rows = known + [tuple(round(w, 3) for w in row) for row in drawn.clamp(-0.5, 1.5).tolist()]
        known = []
        for weights in rows:
            value = cost(weights)
            found.append((value if math.isfinite(value) else math.inf, weights))
        found.sort()
        elite = torch.tensor([weights for _, weights in found[: max(2, round(elite_fraction * population))]])
        mean, spread = elite.mean(0), elite.std(0).clamp(min=0.02)
    return found[0][1]


def clearly_lower(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the mean of paired ``first`` − ``second`` lies below zero by more than its standard error."""
    gap = np.asarray(first, float) - np.asarray(second, float)
    error = gap.std(ddof=1) / math.sqrt(len(gap)) if len(gap) > 1 else math.inf
    return bool(np.isfinite(gap).all() and gap.mean() < -_CLEARLY * error)

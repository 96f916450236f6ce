"""How much of what a reference model can do is left in another one.

Retention is adjusted for the floor, because a model that has forgotten everything still scores something: for bits
per byte the floor is the order-0 entropy of the text's bytes (all structure lost), for tasks the share of the most
frequent answer of each kind. ``retention = (floor − model) / (floor − reference)``: 1 = nothing lost, 0 =
everything; above 1 = better than the reference. A reference that is no better than the floor has no structure to lose:
there the ratio ``reference / model`` of bits counts (1 for the reference itself, below 1 for what is worse), and
`Retention.floor_adjusted` says so. `retained_fraction` is the one definition; every phase measures with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Document, Split, Task
from agent_forge.data.tokenizer import encode_documents, tokenizer_digest
from agent_forge.evaluation.bits_per_byte import Score, mean_bits_per_byte, score_domains
from agent_forge.evaluation.tasks import TaskScore, exact_match


@dataclass(frozen=True)
class Reference:
    """The reference model's own figures, measured once and used for many candidates.

    Attributes:
        scores: by domain.
        floors: bits per byte of the floor, by domain.
        tasks: the tasks that were asked, and how well; None if there were none.
        task_floor: accuracy of always saying the most frequent answer of the kind.
    """

    scores: Mapping[str, Score]
    floors: Mapping[str, float]
    asked: tuple[Task, ...]
    tasks: TaskScore | None
    task_floor: float


@dataclass(frozen=True)
class Retention:
    """What is left.

    Attributes:
        retention_fraction: `retained_fraction` of the means over domains; 1 = nothing lost.
        floor_adjusted: False where the reference is no better than the floor, so that the ratio of bits counts.
        bits_per_byte: mean over domains.
        reference_bits_per_byte: mean over domains.
        floor_bits_per_byte: mean over domains.
        perplexity_ratio: exp of the difference in nats per token of all domains; None if the tokenizers differ.
        kl_nats: mean KL(reference ‖ model) per predicted token, nats; None if not measured.
        task_retention: floor-adjusted; None without tasks or where the reference is not above the floor.
        task_accuracy: of the model; None without tasks.
        reference_task_accuracy: of the reference; None without tasks.
        by_domain: for each domain its retention and bits per byte.
    """

    retention_fraction: float
    floor_adjusted: bool
    bits_per_byte: float
    reference_bits_per_byte: float
    floor_bits_per_byte: float
    perplexity_ratio: float | None
    kl_nats: float | None
    task_retention: float | None
    task_accuracy: float | None
    reference_task_accuracy: float | None
    by_domain: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return dict(vars(self))


def retained_fraction(bits: float, reference: float, floor: float) -> float:
    """What is left: (floor − bits) / (floor − reference), or reference / bits where the reference is at the floor.

    Args:
        bits: bits per byte of the model; infinite or not a number = everything is lost.
        reference: bits per byte of the reference, above 0.
        floor: bits per byte of a model that has forgotten everything.

    Returns:
        1 = nothing lost, 0 = as bad as the floor (below 0: worse).
    """
    if not math.isfinite(bits):
        return 0.0
    return (floor - bits) / (floor - reference) if reference < floor else reference / bits


def allowed_loss(reference: float, floor: float, min_fraction: float) -> float:
    """Bits per byte that may be lost until `retained_fraction` is ``min_fraction`` (0–1); may be infinite at 0."""
    if reference < floor:
        return (1 - min_fraction) * (floor - reference)
    return reference * (1 / min_fraction - 1) if min_fraction > 0 else math.inf


def byte_entropy(documents: Sequence[Document]) -> float:
    """Order-0 entropy of the documents' bytes, bits per byte; a mark counts as a newline (`Document.num_bytes`)."""
    counts = np.zeros(256, np.int64)
    for document in documents:
        data = document.text.encode()
        counts += np.bincount(np.frombuffer(data, np.uint8), minlength=256)
        counts[10] += document.num_bytes - len(data)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def measure_reference(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    split: Split = "test",
    *,
    max_documents: int | None = 64,
    max_tasks: int = 0,
    max_tokens: int = 128,
    domains: Sequence[str] | None = None,
    **options: Any,
) -> Reference:
    """The figures of the reference model; arguments as for `retention`."""
    scores = score_domains(model, tokenizer, corpus, split, max_documents, domains=domains, **options)
    if not scores:
        raise ValueError(f"the corpus has no documents in its {split} split")
    floors = {domain: byte_entropy(corpus.documents(domain, split)[:max_documents]) for domain in scores}
    asked = some_tasks(corpus, split, list(scores), max_tasks)
    found = exact_match(model, tokenizer, asked, max_tokens) if asked else None
    return Reference(scores, floors, tuple(asked), found, task_floor(asked))


def some_tasks(corpus: Corpus, split: Split, domains: Sequence[str], max_tasks: int) -> list[Task]:
    """At most ``max_tasks`` tasks, the same number of each domain where there are enough."""
    found: list[Task] = []
    for place, domain in enumerate(domains):
        if max_tasks > 0:
            found += corpus.tasks(domain, split)[: (max_tasks - len(found)) // (len(domains) - place)]
    return found


def task_floor(tasks: Sequence[Task]) -> float:
    """Accuracy of a guess: one over the number of choices, else the share of the most frequent answer of the kind."""
    if not tasks:
        return 0.0
    expected = 0.0
    for kind in sorted({task.kind for task in tasks}):
        own = [task for task in tasks if task.kind == kind]
        if own[0].choices:
            expected += sum(1 / len(task.choices) for task in own)
        else:
            expected += Counter(task.answer for task in own).most_common(1)[0][1]
    return expected / len(tasks)


def retention(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reference_model: PreTrainedModel | None,
    corpus: Corpus,
    split: Split = "test",
    *,
    reference: Reference | None = None,
    max_documents: int | None = 64,
    max_tasks: int = 0,
    max_tokens: int = 128,
    max_kl_tokens: int = 16384,
    domains: Sequence[str] | None = None,
    **options: Any,
) -> Retention:
    """Measures ``model`` against a reference on one split of a corpus.

    Args:
        model: the candidate.
        tokenizer: of both models.
        reference_model: what the candidate was made from; None is allowed with ``reference`` (no KL then).
        corpus: an open corpus.
        split: "test" for reports, "selection" for decisions on the way.
        reference: figures of `measure_reference` with the same arguments; None = measured here.
        max_documents: per domain; None = all.
        max_tasks: tasks in all; 0 = none.
        max_tokens: of an answer.
        max_kl_tokens: tokens that KL is measured on; 0 = not measured.
        domains: None = all domains of the corpus.
        options: as for `bits_per_byte.score`.

    Raises:
        ValueError: neither model nor figures of the reference.
    """
    if reference is None:
        if reference_model is None:
            raise ValueError("retention needs a reference model or the figures of one")
        reference = measure_reference(
            reference_model, tokenizer, corpus, split,
            max_documents=max_documents, max_tasks=max_tasks, max_tokens=max_tokens, domains=domains, **options,
        )  # fmt: skip
    names = list(reference.scores)
    scores = score_domains(model, tokenizer, corpus, split, max_documents, domains=names, **options)
    asked = list(reference.asked)
    tasks = exact_match(model, tokenizer, asked, max_tokens) if asked else None
    kl = None
    if reference_model is not None and max_kl_tokens > 0:
        documents = [corpus.documents(name, split)[:max_documents] for name in names]
        mixed = [own[place] for place in range(max(map(len, documents))) for own in documents if place < len(own)]
        kl = kl_divergence(reference_model, model, tokenizer, mixed, max_tokens=max_kl_tokens)
    return _compared(reference, scores, tasks, kl)


def _compared(
    reference: Reference, scores: Mapping[str, Score], tasks: TaskScore | None, kl: float | None
) -> Retention:
    floor = float(np.mean([reference.floors[name] for name in scores]))
    ours, theirs = mean_bits_per_byte(scores), mean_bits_per_byte(reference.scores)
    by_domain = {}
    for name, found in scores.items():
        own, own_floor = reference.scores[name].bits_per_byte, reference.floors[name]
        by_domain[name] = {
            "bits_per_byte": found.bits_per_byte,
            "reference_bits_per_byte": own,
            "floor_bits_per_byte": own_floor,
            "retention_fraction": retained_fraction(found.bits_per_byte, own, own_floor),
        }
    nats = [sum(float(s.nats_per_document.sum()) for s in part.values()) for part in (scores, reference.scores)]
    counts = [sum(s.tokens for s in part.values()) for part in (scores, reference.scores)]
    above = reference.tasks is not None and reference.tasks.accuracy > reference.task_floor
    left = None
    if tasks is not None and reference.tasks is not None and above:
        left = (tasks.accuracy - reference.task_floor) / (reference.tasks.accuracy - reference.task_floor)
    return Retention(
        retention_fraction=retained_fraction(ours, theirs, floor),
        floor_adjusted=theirs < floor,
        bits_per_byte=ours,
        reference_bits_per_byte=theirs,
        floor_bits_per_byte=floor,
        perplexity_ratio=math.exp(min((nats[0] - nats[1]) / counts[0], 700.0)) if counts[0] == counts[1] else None,
        kl_nats=kl,
        task_retention=left,
        task_accuracy=None if tasks is None else tasks.accuracy,
        reference_task_accuracy=None if reference.tasks is None else reference.tasks.accuracy,
        by_domain=by_domain,
    )


@torch.inference_mode()
def kl_divergence(
    reference: PreTrainedModel,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    *,
    max_tokens: int = 16384,
    max_length: int = 512,
) -> float:
    """Mean KL(reference ‖ model) over the predicted tokens of the first documents, nats per token.

    Args:
        reference: gives the distribution that is weighted by.
        model: the candidate; must share the vocabulary.
        tokenizer: of both.
        documents: read from the front until ``max_tokens`` tokens were compared.
        max_tokens: tokens at most.
        max_length: tokens of a document at most.

    Raises:
        ValueError: the vocabularies differ, or no document has a token to predict.
    """
    sizes = [int(m.config.vocab_size) for m in (reference, model)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"KL needs one vocabulary, the models have {sizes[0]} and {sizes[1]} tokens")
    total, count = 0.0, 0
    for encoded in encode_documents(tokenizer, documents):
        ids = encoded.ids[:max_length]
        if len(ids) < 2:
            continue
        row = torch.tensor([ids])
        logs = [F.log_softmax(_logits(m, row)[0, :-1].float(), dim=-1) for m in (model, reference)]
        total += float(F.kl_div(logs[0], logs[1].to(logs[0].device), reduction="sum", log_target=True))
        count += len(ids) - 1
        if count >= max_tokens:
            break
    if not count:
        raise ValueError("no document has a token to predict")
    return max(0.0, total / count)  # rounding can leave −1e-9 between equal models


def _logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids.to(next(model.parameters()).device), use_cache=False).logits
    return logits


def same_tokenizer(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers do the same."""
    return tokenizer_digest(first) == tokenizer_digest(second)

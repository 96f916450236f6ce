"""What phase 4 measures: validation while it trains, and the figures that its gates read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Document, Split
from agent_forge.evaluation.bits_per_byte import mean_bits_per_byte, score, score_domains
from agent_forge.evaluation.retention import retention
from agent_forge.phases.bitnet.calibration import LayerCalibration
from agent_forge.phases.bitnet.config import BitnetConfig
from agent_forge.phases.bitnet.gradual import RUNG_NAMES


def validation(
    config: BitnetConfig,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
) -> Callable[[], float]:
    """A function that gives the student's perplexity over the teacher's, on the selection split."""
    documents = _documents(corpus, "selection", config.validation_documents)
    reference = score(teacher, tokenizer, documents, max_length=config.sequence_length).perplexity
    return lambda: score(student, tokenizer, documents, max_length=config.sequence_length).perplexity / reference


def _documents(corpus: Corpus, split: Split, most: int) -> list[Document]:
    return [document for domain in corpus.domains for document in corpus.documents(domain, split)[:most]]


def bits_on_test_split(
    config: BitnetConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Corpus
) -> float:
    """Bits per byte on the test split, mean over domains."""
    return mean_bits_per_byte(score_domains(model, tokenizer, corpus, "test", config.test_documents))


def measure(
    config: BitnetConfig,
    packed: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    trained_bits: float,
) -> dict[str, float]:
    """What the gates read, on the test split, of the model that came out of the packed file."""
    kept = retention(packed, tokenizer, teacher, corpus, "test", max_documents=config.test_documents)
    measured = {
        "bitnet/retention_fraction": kept.retention_fraction,
        "bitnet/floor_adjusted": float(kept.floor_adjusted),
        "bitnet/bits_per_byte": kept.bits_per_byte,
        "bitnet/bits_per_byte_ratio": kept.bits_per_byte / kept.reference_bits_per_byte,
        "bitnet/round_trip_bits_per_byte_gap": abs(kept.bits_per_byte - trained_bits),
    }
    # One tokenizer on both sides, so both are there; a missing figure must fail its gate, not become a zero.
    optional = {"bitnet/perplexity_ratio": kept.perplexity_ratio, "bitnet/kl_nats": kept.kl_nats}
    return measured | {name: value for name, value in optional.items() if value is not None}


def report_page(
    calibration: Mapping[str, LayerCalibration],
    levels: Mapping[str, int],
    attempts: Sequence[Mapping[str, Any]],
    measured: Mapping[str, float],
) -> dict[str, Any]:
    """JSON for the report: what was measured on each layer, what became of it, and every try of every stage."""
    layers = {
        name: {
            "sensitivity": found.sensitivity,
            "input_absmax": found.absmax,
            "input_outlier_ratio": found.outlier_ratio,
            "group_size": found.group_size,
            "precision": RUNG_NAMES[levels[name]],
        }
        for name, found in calibration.items()
    }
    return {"layers": layers, "stages": list(attempts), "measured": dict(measured)}

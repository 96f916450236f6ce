"""Phase 8 by itself: `agent-forge compress MODEL --out FILE.forge`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.documents import Document
from agent_forge.errors import ArtifactCorrupt, DataError
from agent_forge.model.checkpoint import load_model
from agent_forge.phases.compression import forge_file
from agent_forge.phases.compression.attachments import attached, with_experts
from agent_forge.phases.compression.config import CompressionConfig
from agent_forge.phases.compression.phase import choices, measured
from agent_forge.phases.compression.quality import Meter
from agent_forge.phases.compression.shrink import Documents, shrink

_OWN_DOCUMENTS, _OWN_TOKENS = 36, 64


def compress(
    model_folder: Path,
    out_file: Path,
    *,
    max_bytes: int | None = None,
    min_retention: float | None = None,
    texts: Sequence[str] | None = None,
    seed: int = 0,
    config: CompressionConfig | None = None,
) -> dict[str, Any]:
    """Writes a checkpoint folder as one `.forge` file.

    Args:
        model_folder: any causal language model.
        out_file: the file to write, atomically.
        max_bytes: wanted size; a larger one is accepted (and said) where quality needs it.
        min_retention: as small as this retention allows.
        texts: at least three, to measure on; None = text that the model itself samples.
        seed: of sampled text and of k-means.
        config: settings; None = defaults with the two bounds above.

    Returns:
        Figures on the last third of the texts, choices per tensor, what was rolled back and skipped, and a note.

    Raises:
        DataError: fewer than three texts.
        HandoffError: a checkpoint that cannot be used.
        DiskFull: no room; nothing is left behind.
    """
    model, tokenizer = load_model(model_folder)
    documents = [Document(text) for text in texts] if texts is not None else sampled(model, tokenizer, seed)
    if len(documents) < 3:
        raise DataError(f"{len(documents)} texts cannot be split into calibration, selection and test; give 3 or more")
    thirds = [{"text": documents[start::3]} for start in range(3)]
    extra = attached(Path(model_folder))
    return _compress(model, tokenizer, Path(out_file), thirds, _config(config, max_bytes, min_retention), seed, extra)


def compress_folder(
    folder: Path,
    out: Path,
    *,
    max_bytes: int | None = None,
    min_retention: float | None = None,
    sources: Sequence[str] = (),
) -> dict[str, Any]:
    """`compress` with data sources as the command line gives them (files, folders, ``synthetic``)."""
    if not sources:
        return compress(folder, out, max_bytes=max_bytes, min_retention=min_retention)
    from agent_forge.data.corpora import Corpus, ingest

    config = _config(None, max_bytes, min_retention)
    with tempfile.TemporaryDirectory() as scratch:
        ingest(sources, Path(scratch) / "corpus", seed=0)
        corpus = Corpus.open(Path(scratch) / "corpus")
        count = config.evaluation_documents
        parts: list[Documents] = [
            {domain: corpus.documents(domain, split)[:count] for domain in corpus.domains}
            for split in ("train", "selection", "test")
        ]
        model, tokenizer = load_model(folder)
        return _compress(model, tokenizer, Path(out), parts, config, 0, attached(Path(folder)))


def sampled(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> list[Document]:
    """Text of the model itself at temperature 1: measures what changes, not how good the model is."""
    generator = torch.Generator().manual_seed(seed)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else 0
    rows = torch.full((_OWN_DOCUMENTS, 1), start)
    with torch.inference_mode():
        for _ in range(_OWN_TOKENS):  # all documents at once; without a cache that is quick at this length
            last = model(input_ids=rows).logits[:, -1].float().cpu()
            rows = torch.cat([rows, torch.multinomial(last.softmax(-1), 1, generator=generator)], dim=1)
    texts = [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in rows.tolist()]
    return [Document(text) for text in texts if text]


def _config(config: CompressionConfig | None, max_bytes: int | None, min_retention: float | None) -> CompressionConfig:
    changed: dict[str, Any] = {} if max_bytes is None else {"max_bytes": max_bytes}
    if min_retention is not None:
        changed |= {"min_retention_fraction": min_retention, "max_bits_per_byte_increase_fraction": 1.0}
    return (config or CompressionConfig()).model_copy(update=changed)


def _compress(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    parts: Sequence[Documents],
    config: CompressionConfig,
    seed: int,
    extra: Mapping[str, bytes],
) -> dict[str, Any]:
    calibration, selection, tests = parts
    meter = Meter(model, tokenizer, tests, max_length=config.max_length)
    shrunk = shrink(
        model, tokenizer, calibration=calibration, selection=selection, config=config,
        generator=torch.Generator().manual_seed(seed), progress=lambda share, note: None,
        has_experts=with_experts(extra),
    )  # fmt: skip
    size = forge_file.write(out, replace(shrunk.compressed, extra=extra), tokenizer)
    figures = measured(shrunk, meter, out, size)
    if figures["compression/round_trip_exact"] != 1.0:
        raise ArtifactCorrupt(f"{out}: the file does not decode to what was measured; this is a fault of the program")
    facts: dict[str, Any] = {key.removeprefix("compression/"): value for key, value in figures.items()}
    facts |= {"stages": list(shrunk.records), "skipped": list(shrunk.skipped), "tensors": choices(shrunk)}
    if config.max_bytes is not None and size > config.max_bytes:
        facts["note"] = (
            f"{size:,} bytes where at most {config.max_bytes:,} were wanted: anything smaller falls below a "
            f"retention of {config.min_retention_fraction:.0%}, so the larger size is accepted"
        )
    return facts

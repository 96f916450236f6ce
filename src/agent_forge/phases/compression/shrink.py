"""One model through the whole of phase 8: knowledge, menus, allocation, gated stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import encode_documents, special_ids
from agent_forge.model import ternary
from agent_forge.model.roles import parameter_roles, quantizable_linears
from agent_forge.phases.compression import codecs, hessian, menus, sensitivity
from agent_forge.phases.compression.bitstream import Encoded
from agent_forge.phases.compression.cascade import Cascade
from agent_forge.phases.compression.config import CompressionConfig
from agent_forge.phases.compression.forge_file import Compressed, config_of
from agent_forge.phases.compression.quality import Bench, Meter

Documents = Mapping[str, Sequence[Document]]
"""Domain → documents."""

Progress = Callable[[float, str], None]
"""(share done 0–1, what is being done). Raises to stop."""


@dataclass(frozen=True)
class Shrunk:
    """The outcome.

    Attributes:
        compressed: ready to be written.
        plan: tensor → option.
        records: what each stage measured and rolled back.
        skipped: what was not tried, with reasons.
        predicted: bytes and predicted loss of the plan, in nats per token.
        cascade: menus and bench, for the ladder.
        special_rows: rows of special tokens that no codec may change, by tensor.
    """

    compressed: Compressed
    plan: Mapping[str, str]
    records: Sequence[Mapping[str, Any]]
    skipped: Sequence[Mapping[str, Any]]
    predicted: tuple[int, float]
    cascade: Cascade
    special_rows: Mapping[str, tuple[int, ...]]


def shrink(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    calibration: Documents,
    selection: Documents,
    config: CompressionConfig,
    generator: torch.Generator,
    progress: Progress,
    has_experts: bool = False,
) -> Shrunk:
    """Chooses and applies codecs.

    Args:
        model: the input; its weights are those of the reconstruction afterwards.
        tokenizer: its tokenizer.
        calibration: documents for gradients and Hessians.
        selection: documents that decide; neither trained on nor reported.
        config: settings.
        generator: picks the first centroids of VPTQ.
        progress: told what is being done.
        has_experts: expert vectors travel with the model. They belong to the exact matrices of its body, so no option
            may change those.

    Raises:
        ValueError: no documents, or a forced option that a tensor cannot take.
    """
    sidecar = ternary.freeze(model) if ternary.ternary_linears(model) else None
    bench = Bench(model)
    meter = Meter(model, tokenizer, selection, max_length=config.max_length)
    progress(0.05, "sensitivity")
    known = learn(bench, tokenizer, calibration, config)
    if has_experts:
        known = replace(known, exact=frozenset(name for name, _ in quantizable_linears(model)))
    cards: dict[str, menus.Menu] = {}
    skipped: list[dict[str, Any]] = []
    for index, (name, tensor) in enumerate(bench.tensors.items()):
        progress(0.1 + 0.5 * index / len(bench.tensors), f"options of {name}")
        cards[name], reasons = menus.menu_of(name, tensor, known, config)
        skipped += reasons
    if "vptq" in config.codecs:
        progress(0.6, "vector quantization")
        skipped += menus.add_vptq(cards, bench.tensors, known, generator)
    cascade = Cascade(bench, meter, cards, known.roles, lambda: progress(0.7, "choosing and measuring"))
    increase_fraction = 1.0 if config.max_bytes else config.max_bits_per_byte_increase_fraction
    allowed = meter.allowed_increase(
        max_increase_fraction=increase_fraction, min_retention=config.min_retention_fraction
    )
    room = None if config.max_bytes is None else config.max_bytes - overhead_bytes(bench, tokenizer, sidecar)
    wanted = cascade.choose(allowed=allowed, rounds=config.max_allocation_rounds, max_bytes=room)
    wanted |= _forced(cascade, known, config)
    plan = cascade.run_stages(wanted, min_retention=config.min_retention_fraction)
    bench.load(cascade.values(plan))
    loss = sum(cards[name].points[option].loss for name, option in plan.items())
    compressed = assemble(bench, {n: cards[n].encoded[o] for n, o in plan.items()}, cards, sidecar)
    predicted = (cascade.size(plan), loss)
    return Shrunk(compressed, plan, cascade.records, skipped, predicted, cascade, known.special_rows)


def learn(
    bench: Bench, tokenizer: PreTrainedTokenizerBase, calibration: Documents, config: CompressionConfig
) -> menus.Knowledge:
    """Roles, Fisher diagonals and Hessians from the calibration documents (taken in turn from each domain)."""
    roles = dict(parameter_roles(bench.model))
    batches = calibration_batches(tokenizer, calibration, config.calibration_documents, config.max_length)
    from agent_forge.phases.compression.ternary_coding import find_levels

    parameters = dict(bench.model.named_parameters())
    lossy = [
        name
        for name, tensor in bench.tensors.items()
        if name in parameters and tensor.is_floating_point() and find_levels(tensor) is None
    ]
    fisher = sensitivity.diagonal_fisher(bench.model, batches, lossy)
    curved = [name for name in lossy if roles.get(name) == "linear"]
    hessians = hessian.collect(bench.model, batches, curved) if curved else {}
    return menus.Knowledge(roles, fisher, hessians, special_rows(bench, roles, tokenizer))


def special_rows(
    bench: Bench, roles: Mapping[str, str], tokenizer: PreTrainedTokenizerBase
) -> dict[str, tuple[int, ...]]:
    """Rows of special tokens by name of the embedding or head that has them."""
    ids = sorted(special_ids(tokenizer))
    tables = [n for n, t in bench.tensors.items() if roles.get(n) in ("embedding", "head") and t.dim() == 2]
    return {name: tuple(row for row in ids if row < bench.tensors[name].shape[0]) for name in tables}


def calibration_batches(
    tokenizer: PreTrainedTokenizerBase, documents: Documents, count: int, max_length: int
) -> list[Tensor]:
    """``count`` documents, the domains in turn, as token ids [1, T]."""
    longest = max((len(own) for own in documents.values()), default=0)
    mixed = [own[place] for place in range(longest) for own in documents.values() if place < len(own)]
    rows = [list(encoded.ids)[:max_length] for encoded in encode_documents(tokenizer, mixed[: 2 * count])]
    batches = [torch.tensor([row]) for row in rows if len(row) > 1][:count]
    if not batches:
        raise ValueError("no calibration document has two tokens")
    return batches


def assemble(
    bench: Bench,
    encoded: Mapping[str, Encoded],
    cards: Mapping[str, menus.Menu],
    sidecar: Mapping[str, Any] | None,
) -> Compressed:
    """What a file needs, with the codebooks that are used and no others."""
    shared = {name: cards[tensor].shared[name] for tensor, one in encoded.items() for name in one.shared}
    generation = bench.model.generation_config
    kept = None if generation is None else _portable(generation.to_diff_dict())
    return Compressed(config_of(bench.model), encoded, bench.tied, shared, sidecar, kept)


def overhead_bytes(bench: Bench, tokenizer: PreTrainedTokenizerBase, sidecar: Mapping[str, Any] | None) -> int:
    """Bytes of a file beside its tensors: header, manifest, tokenizer."""
    from agent_forge.phases.compression.forge_file import to_bytes

    encoded = {name: codecs.encode(tensor, "plain/fp16") if tensor.is_floating_point() else
               codecs.encode(tensor, "plain/native") for name, tensor in bench.tensors.items()}  # fmt: skip
    whole = to_bytes(assemble(bench, encoded, {}, sidecar), tokenizer)
    return len(whole) - sum(len(one.payload) for one in encoded.values())


def _forced(cascade: Cascade, known: menus.Knowledge, config: CompressionConfig) -> dict[str, str]:
    """Options that the config asks for by role."""
    found = {}
    for name, tensor in cascade.bench.tensors.items():
        option = config.forced.get(known.roles.get(name, "other"))
        if option is None:
            continue
        if name in known.exact:
            raise ValueError(f"{name} cannot be {option}: the experts of this model belong to its exact weights")
        if option not in cascade.menus[name].encoded:
            menus.add(cascade.menus[name], name, tensor, option, known)
        found[name] = option
    return found


def _portable(generation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in generation.items() if key not in ("transformers_version", "_from_model_config")
    }

"""Phase 8: the ternary model in one `.forge` file.

See docs/phases/compression.md. Deterministic: equal inputs give equal bytes, so a killed run starts again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.abilities import Abilities, Answers, points_lost
from agent_forge.agent.toolbox import Toolbox
from agent_forge.contract import Artifact, Artifacts, Context, one
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Split
from agent_forge.errors import Interrupted
from agent_forge.phases.compression import DECLARATION, forge_file
from agent_forge.phases.compression.attachments import attached, with_experts
from agent_forge.phases.compression.config import CompressionConfig
from agent_forge.phases.compression.ladder import ladder
from agent_forge.phases.compression.quality import Meter
from agent_forge.phases.compression.questions import ask
from agent_forge.phases.compression.shrink import Documents, Shrunk, shrink

FILE_NAME = "agent.forge"


class Compression:
    """See the module."""

    name: ClassVar[str] = DECLARATION.name
    version: ClassVar[int] = DECLARATION.version
    consumes: ClassVar[Mapping[str, str]] = DECLARATION.consumes
    produces: ClassVar[Mapping[str, str]] = DECLARATION.produces

    def run(self, config: CompressionConfig, inputs: Artifacts, context: Context) -> Artifacts:
        """Baseline → codecs behind gates → file → read back → figures on the test split."""

        def progress(share: float, note: str) -> None:
            if context.should_stop():
                raise Interrupted("stopped in phase compression; resuming starts this phase again")
            context.progress(share, 1.0, note)

        model, tokenizer = context.load_model(one(inputs, "model"))
        corpus = Corpus.open(context.path(one(inputs, "corpus")))
        tests = _documents(corpus, "test", config.evaluation_documents)
        meter = Meter(model, tokenizer, tests, max_length=config.max_length)  # the baseline, before any codec
        source = one(inputs, "model")
        extra = attached(context.path(source))
        abilities = _abilities(config, tokenizer, corpus, Toolbox.load(context.path(source)), source, context.seed)
        able = abilities(model)
        shrunk = shrink(
            model,
            tokenizer,
            calibration=_documents(corpus, "train", config.calibration_documents),
            selection=_documents(corpus, "selection", config.evaluation_documents),
            config=config,
            generator=context.generator("vptq"),
            progress=progress,
            has_experts=with_experts(extra),
        )
        progress(0.85, "writing and reading back")
        folder = context.scratch / "agent"
        shutil.rmtree(folder, ignore_errors=True)
        size = forge_file.write(folder / FILE_NAME, replace(shrunk.compressed, extra=extra), tokenizer)
        figures = measured(shrunk, meter, folder / FILE_NAME, size)
        figures["compression/attached_bytes"] = float(sum(map(len, extra.values())))
        if inputs.get("trunk") is not None:
            trunk, _ = context.load_model(one(inputs, "trunk"))
            bits = figures["compression/bits_per_byte"]
            figures["compression/retention_of_trunk"] = meter.retention(bits, meter.bits_per_byte(trunk))
            del trunk
        agent, _ = forge_file.read_model(folder / FILE_NAME)
        figures |= points_lost(able, abilities(agent), "compression")
        if config.num_tasks:
            answered, samples = ask(agent, tokenizer, corpus, count=config.num_tasks, max_tokens=config.task_tokens)
            figures |= answered
            context.attach("samples", samples)
        del agent
        context.report(figures)
        context.log(figures, 0)
        tell(shrunk, config, size, context)
        if config.ladder:
            progress(0.9, "size against quality")
            stop = lambda: progress(0.95, "size against quality")  # noqa: E731
            context.attach("ladder", ladder(shrunk, tokenizer, meter, file_bytes=size, stop=stop))
        facts = {key: round(value, 6) for key, value in figures.items()}
        return {"agent": context.save_folder("agent_file", folder, **facts)}


def measured(shrunk: Shrunk, meter: Meter, path: Path, size: int) -> dict[str, float]:
    """Figures of the file as it is on disk: it is read back, and that agent is what is measured."""
    bench = shrunk.cascade.bench
    agent, _ = forge_file.read_model(path)
    stored, _ = forge_file.stored_tensors(agent)
    exact = all(torch.equal(stored[name], tensor) for name, tensor in shrunk.cascade.values(shrunk.plan).items())
    bits = meter.bits_per_byte(agent)
    kept = all(
        torch.equal(stored[name][list(rows)], bench.tensors[name][list(rows)])
        for name, rows in shrunk.special_rows.items()
    )
    count = sum(tensor.numel() for tensor in bench.tensors.values())
    return {
        "compression/size_bytes": float(size),
        "compression/bits_per_byte": bits,
        "compression/input_bits_per_byte": meter.reference,
        "compression/retention_fraction": meter.retention(bits),
        "compression/floor_adjusted": float(meter.reference < meter.floor),
        "compression/bits_per_byte_increase_fraction": bits / meter.reference - 1,
        "compression/round_trip_exact": float(exact),
        "compression/special_rows_identical": float(kept),
        "compression/bits_per_weight": 8 * size / count,
        "compression/ratio_to_fp32": 4 * count / size,
        "compression/rolled_back_groups": float(sum(len(record["rolled_back"]) for record in shrunk.records)),
    }


def tell(shrunk: Shrunk, config: CompressionConfig, size: int, context: Context) -> None:
    """What was chosen, rolled back, skipped and not reached."""
    context.attach("compression_stages", list(shrunk.records))
    context.attach("compression_skipped", list(shrunk.skipped))
    context.attach("compression_plan", choices(shrunk))
    for record in shrunk.records:
        for undone in record["rolled_back"]:
            context.warn(
                "CF3",
                f"stage {record['stage']}: {undone['group']} went from {', '.join(undone['from'])} "
                f"back to {', '.join(undone['to'])}",
                retention_fraction=undone["retention_fraction"],
            )
    if config.max_bytes is not None and size > config.max_bytes:
        context.warn(
            "PR8",
            f"{size:,} bytes where at most {config.max_bytes:,} were wanted: anything smaller falls below a retention "
            f"of {config.min_retention_fraction:.0%}, so the larger size is accepted",
            size_bytes=float(size),
            wanted_bytes=float(config.max_bytes),
        )


def choices(shrunk: Shrunk) -> list[dict[str, Any]]:
    """Per tensor: role, option and bytes."""
    cascade = shrunk.cascade
    return [
        {"tensor": name, "role": cascade.roles.get(name, "other"), "option": option,
         "bytes": cascade.menus[name].points[option].bytes, "weights": cascade.bench.tensors[name].numel()}
        for name, option in shrunk.plan.items()
    ]  # fmt: skip


def _abilities(
    config: CompressionConfig,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    toolbox: Toolbox | None,
    source: Artifact,
    seed: int,
) -> Callable[[PreTrainedModel], dict[str, Answers]]:
    """Asks a model for what the agent can do; nothing where no question is to be asked."""
    asked = Abilities(
        tokenizer, corpus, toolbox, str(source.facts.get("persona", "")), seed,
        levels=config.ability_levels, answer_tokens=config.answer_tokens,
    )  # fmt: skip
    counts = {"questions": config.ability_questions, "persona_questions": config.persona_questions}
    return lambda model: asked.answers(model, "test", **counts) if config.ability_questions else {}


def _documents(corpus: Corpus, split: Split, count: int) -> Documents:
    return {domain: corpus.documents(domain, split)[:count] for domain in corpus.domains}


PHASE = Compression()

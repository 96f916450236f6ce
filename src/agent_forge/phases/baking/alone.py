"""Prompt baking of one checkpoint on its own, outside a pipeline: `agent-forge bake MODEL --prompt FILE --out DIR`.

Any causal language model of transformers will do; one that does not follow the prompt when it reads it has nothing that
could be baked, and the figures say so: the divergence before is then next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from agent_forge.agent.belongings import TOOL_FILES, read_belongings
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.practice_dialogues import Exchange, exchanges
from agent_forge.errors import ConfigError
from agent_forge.model.checkpoint import load_model, save_model
from agent_forge.model.ternary import rounded, ternary_linears
from agent_forge.model.ternary_checkpoint import save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.optim import schedules
from agent_forge.optim.prompt_baking import Pair, mean_divergence, targets_of
from agent_forge.phases.baking.config import BakingConfig
from agent_forge.phases.baking.course import Loss
from agent_forge.phases.baking.student import Student
from agent_forge.phases.baking.tools_cycle import mixed_loss
from agent_forge.phases.baking.trajectories import Prompt, anchors, grouped, sample_trajectories

_HELD_OUT = 5
"""One question in so many is kept for measuring."""
DEFAULTS: Mapping[str, Any] = {"adapter_rank": 8, "strength": 1.0, "trajectories": 100}
"""What this command does otherwise than the phase: low-rank deltas and the whole change."""


def bake_folder(
    model_folder: Path | str,
    out: Path | str,
    *,
    prompt: str,
    questions: Sequence[str] = (),
    sources: Sequence[str] = (),
    seed: int = 0,
    device: str = "cpu",
    observe: Callable[[int, float], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Writes a checkpoint that behaves without the prompt as the given one does with it.

    Args:
        model_folder: a folder that `AutoModelForCausalLM` loads; its tools, if it has any, are called and kept.
        out: folder to write; made if missing, must be empty.
        prompt: what the teacher is told before every conversation.
        questions: what it is asked; empty = questions of the synthetic world that need no tool.
        sources: ordinary text on which nothing may change, as `agent_forge.data.corpora.ingest` takes it.
        seed: of sampling and of the adapter.
        device: to compute on.
        observe: told the number and the loss of every step.
        settings: fields of `BakingConfig`; those of the loop are not used here.

    Returns:
        Facts: divergence in nats on held-out questions before and after, their ratio, steps, strength.

    Raises:
        ConfigError: ``out`` holds something, the prompt is empty, too few questions, or an impossible setting.
        HandoffError: the folder is no sound checkpoint.
    """
    out, config = Path(out), _config(settings)
    _check(out, prompt)
    asked = _asked(config, questions, seed)
    model, tokenizer = load_model(model_folder, device=device)
    toolbox = Toolbox.load(Path(model_folder)) if Path(model_folder).is_dir() else None
    # A low-rank delta would be rounded away; a ternary model is baked in its latent weights.
    rank = 0 if ternary_linears(model) and "adapter_rank" not in settings else config.adapter_rank
    student = Student(model, tokenizer, adapter_rank=rank, optimizer=config.optimizer)
    with rounded(student.model):
        pairs = _said(config, student, toolbox or Toolbox([]), asked, prompt.strip(), seed)
        split = max(1, len(pairs) // _HELD_OUT)
        held, learned = pairs[:split], pairs[split:]
        wanted = targets_of(model, held, top_k=0)
        before = mean_divergence(model, held, wanted)
        expected = targets_of(model, learned, top_k=config.top_k)
        still = _texts(config, tokenizer, sources, seed)
        unchanged = targets_of(model, still, top_k=config.top_k)
    _train(config, student, mixed_loss(config, model, (learned, expected), (still, unchanged)), seed, observe)
    student.finish()
    after = mean_divergence(model, held, wanted)
    facts = _facts(config, prompt.strip(), seed, before, after)
    # What is no folder (an id of a hub) has no tools: nothing is found, and nothing is carried.
    _write(student, tokenizer, out, facts, read_belongings(Path(model_folder), TOOL_FILES))
    return facts


def _facts(config: BakingConfig, prompt: str, seed: int, before: float, after: float) -> dict[str, Any]:
    return {
        "phase": "baking",
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "prompt": prompt,
        "divergence_before": before,
        "divergence_after": after,
        "divergence_ratio": after / max(before, 1e-12),
        "trained_steps": config.persona_steps,
    }


def _check(out: Path, prompt: str) -> None:
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; a baked model is written into a folder of its own")
    if not prompt.strip():
        raise ConfigError("the prompt is empty; there is nothing to bake")


def _config(settings: Mapping[str, Any]) -> BakingConfig:
    try:
        return BakingConfig(**{**DEFAULTS, **settings})
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors())
        raise ConfigError(f"bake cannot be set so: {fields}") from error


def _asked(config: BakingConfig, questions: Sequence[str], seed: int) -> list[Exchange]:
    given = [Exchange(text.strip(), (), "", 1, "train") for text in questions if text.strip()]
    if not questions:
        given = list(islice(exchanges(seed, config.levels, "train", tools=()), config.trajectories))
    if len(given) < 2:
        raise ConfigError(f"there are {len(given)} questions; at least 2 are needed, one of them to measure on")
    return given[: config.trajectories]


def _said(
    config: BakingConfig, student: Student, toolbox: Toolbox, asked: Sequence[Exchange], prompt: str, seed: int
) -> list[Pair]:
    sampled = sample_trajectories(
        student.model,
        student.tokenizer,
        toolbox,
        grouped(asked, min(config.max_questions, max(1, len(asked) // 2))),
        Prompt(system=prompt),
        temperature=config.temperature,
        generator=torch.Generator().manual_seed(seed),
        max_tokens=config.answer_tokens,
    )
    pairs = [pair for trajectory in sampled for pair in trajectory.pairs()]
    if len(pairs) < 2:
        raise ConfigError("the prompted model gave fewer than 2 conversations to learn from; give more questions")
    return pairs


def _texts(config: BakingConfig, tokenizer: PreTrainedTokenizerBase, sources: Sequence[str], seed: int) -> list[Pair]:
    if not sources:
        return []
    with TemporaryDirectory() as folder:
        ingest(list(sources), Path(folder) / "corpus", seed=seed)
        corpus = Corpus.open(Path(folder) / "corpus")
        count = max(config.batch_size, config.trajectories)
        return anchors(corpus, tokenizer, count, config.anchor_tokens, torch.Generator().manual_seed(seed))


def _train(
    config: BakingConfig,
    student: Student,
    loss_of: Loss,
    seed: int,
    observe: Callable[[int, float], None] | None,
) -> None:
    before = student.weights()
    student.begin(config.baking_learning_rate, torch.Generator().manual_seed(seed))
    training = student.training
    assert training is not None
    student.model.train()
    for step in range(config.persona_steps):
        training.blend()
        loss, _ = loss_of(step)
        rate = schedules.multiplier("cosine", step / config.persona_steps, warmup_fraction=0.05, floor=0.02)
        training.update(loss, rate=rate)
        if observe is not None:
            observe(step, float(loss.detach()))
    student.model.eval()
    student.end(before, config.strength)


def _write(
    student: Student,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    facts: Mapping[str, Any],
    tools: Mapping[str, bytes],
) -> None:
    if student.is_ternary:
        save_ternary(student.model, tokenizer, out, select(student.model, tokenizer), facts)
    else:
        save_model(student.model, tokenizer, out, facts)
    for name, text in tools.items():
        (out / name).write_bytes(text)

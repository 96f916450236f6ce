"""The whole chain in one table: every model of a session, asked the same questions about the same text.

Each phase measures what its gates need, on documents of its own choice; here all models meet the same test split, so
that the rows can be compared with one another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agent_forge.contract import Artifact, many
from agent_forge.errors import ModelNotFound
from agent_forge.phases.edge.speed import PROMPT_TOKENS, shipped_bytes
from agent_forge.pipeline.resolve import load_reference, load_toolbox, only_file
from agent_forge.pipeline.views import newest_runs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from agent_forge.agent.toolbox import Toolbox
    from agent_forge.data.corpora import Corpus
    from agent_forge.storage.home import Home

FILE = "cascade.json"
_NAMES = {"trunk": "cognate: trunk", "agent": "compression: .forge file"}


def cascade(
    home: Home, session: str, *, documents: int = 8, tasks: int = 8, questions: int = 32, tokens: int = 24
) -> list[dict[str, Any]]:
    """One row for each model of a session, in the order of the chain; also written beside the session's folders.

    Args:
        home: where it ran.
        session: its name.
        documents: of each domain of the test split.
        tasks: with exact answers, of each domain.
        questions: to the tools of the newest agent; 0 = none.
        tokens: that are decoded to measure speed, with PyTorch.

    Returns:
        Rows with ``model``, ``bytes``, ``bits_per_byte``, ``task_accuracy``, ``tool_accuracy`` (None without tools),
        ``first_token_seconds`` (prompt of 128 tokens, batch 1) and ``tokens_per_second``.

    Raises:
        SessionNotFound: there is none of that name.
        ModelNotFound: it has no model or no corpus yet.
    """
    from agent_forge.data.corpora import Corpus

    outputs = {run.phase: run.outputs for run in newest_runs(home, session) if run.outputs}
    if "data" not in outputs or len(outputs) < 2:
        raise ModelNotFound(f"session {session!r} has no model yet")
    corpus = Corpus.open(home.blobs.view(many(outputs["data"], "corpus")[0]))
    models = [(name, only_file(home.blobs.view(artifact))) for name, artifact in _models(outputs)]
    toolbox = next((box for _, path in reversed(models) if (box := load_toolbox(path)) is not None), None)
    rows = []
    for name, path in models:
        model, tokenizer = load_reference(path)
        row: dict[str, Any] = {"model": name, "bytes": shipped_bytes(path) if path.is_dir() else path.stat().st_size}
        row |= _quality(model, tokenizer, corpus, documents, tasks)
        row |= _tools(model, tokenizer, corpus, toolbox, questions)
        row |= _speed(model, tokens)
        rows.append(row)
    path = home.session_folder(session) / FILE
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


def stored_cascade(home: Home, session: str) -> list[dict[str, Any]]:
    """The rows that were measured last, or none."""
    path = home.session_folder(session) / FILE
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return rows


def _models(outputs: Mapping[str, Any]) -> Iterator[tuple[str, Artifact]]:
    from agent_forge.phases import ORDER

    for phase in ORDER:
        for name in ("trunk", "model", "agent"):
            if name in outputs.get(phase, {}):
                yield _NAMES.get(name, phase), many(outputs[phase], name)[0]


def _quality(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, documents: int, tasks: int
) -> dict[str, Any]:
    from agent_forge.evaluation.bits_per_byte import mean_bits_per_byte, score_domains
    from agent_forge.evaluation.tasks import exact_match

    scores = score_domains(model, tokenizer, corpus, "test", documents)
    asked = [task for domain in corpus.domains for task in corpus.tasks(domain, "test")[:tasks]]
    right = exact_match(model, tokenizer, asked, max_tokens=48).accuracy if asked else None
    return {"bits_per_byte": mean_bits_per_byte(scores), "task_accuracy": right}


def _tools(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, toolbox: Toolbox | None, count: int
) -> dict[str, Any]:
    """Right answers through the tools of the agent, without a prompt, whether or not this model was taught to."""
    from agent_forge.agent.tool_exam import ask_tools, merged, questions_about, worlds_of

    if toolbox is None or not count:
        return {"tool_accuracy": None}
    levels, names = (1, 2, 3), list(toolbox.tools)
    worlds = worlds_of(levels, corpus, 0, names)
    rows = questions_about(worlds, levels, names, "test", count)
    found = merged([ask_tools(model, tokenizer, box, asked, answer_tokens=40) for box, asked in rows])
    return {"tool_accuracy": found.figures().get("tools_right_answer")}


def _speed(model: PreTrainedModel, tokens: int, repeats: int = 3) -> dict[str, Any]:
    """Medians of greedy decoding with a cache, batch 1."""
    from agent_forge.evaluation.decoding_speed import cached_step, decoding_speed

    ids = [number % min(256, int(model.config.vocab_size)) for number in range(PROMPT_TOKENS)]
    first, rate = decoding_speed(cached_step(model), ids, tokens, repeats)
    return {"first_token_seconds": first, "tokens_per_second": rate}

"""Retrieval over the articles of the synthetic world: BM25 beside rank-bm25, and beside a model's own hidden states.

Passages are articles about people and towns; questions are those of the world about people who have an article. A
passage is right if it names the person and holds the answer. Printed for each way: how often the first passage is
right, one of the first three, the mean reciprocal rank, and milliseconds for a question (median); for BM25 the
rank-bm25 package answers the same questions in the same loop.

    python benchmarks/retrieval.py [--model CHECKPOINT] [--passages 200] [--questions 100] [--out FILE]

Without a model a small Llama is trained here on the world for --steps steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rank_bm25 import BM25Okapi

from agent_forge.agent.bm25 import BM25, words_of
from agent_forge.agent.embeddings import Similar, embedder
from agent_forge.data.documents import Document
from agent_forge.data.synthetic_world import generate
from agent_forge.data.synthetic_world.facts import people_at, person

LEVEL, SEED = 3, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--passages", type=int, default=200)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    articles, questions = world(options.passages, options.questions)
    model, tokenizer = trained(options.steps) if options.model is None else loaded(options.model)
    reference = BM25Okapi([words_of(text) for text in articles], k1=1.2, b=0.75)
    ways: dict[str, Callable[[str], np.ndarray]] = {
        "BM25": BM25(articles).scores,
        "rank-bm25": lambda question: np.asarray(reference.get_scores(words_of(question))),
        "hidden states": Similar(articles, embedder(model, tokenizer)).scores,
    }
    rows = compare(ways, articles, questions)
    print(f"{len(articles)} passages, {len(questions)} questions, {model.num_parameters():,} parameters")
    for row in rows:
        print("{way:14} first {first:.2f}  of three {three:.2f}  reciprocal rank {mrr:.2f}  {ms:.2f} ms".format(**row))
    if options.out:
        options.out.write_text(json.dumps({"benchmark": "retrieval", "rows": rows}, indent=1) + "\n", encoding="utf-8")


def world(num_passages: int, num_questions: int) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Articles, and (question, name, answer) about people who have one with the answer."""
    items = list(islice(generate(SEED, "facts", (LEVEL,)), 20 * num_passages))
    articles = list(dict.fromkeys(item.document.text for item in items if not item.tasks))[:num_passages]
    names = [person(SEED, who).name for who in range(people_at(LEVEL))]
    asked = {}
    for task in (task for item in items for task in item.tasks if task.kind == "facts/recall"):
        name = next((each for each in names if each in task.prompt), None)
        if name is not None and any(right(article, name, task.answer) for article in articles):
            asked[task.prompt] = (task.prompt, name, task.answer)
    return articles, list(asked.values())[:num_questions]


def right(article: str, name: str, answer: str) -> bool:
    return name in article and answer in article


def compare(
    ways: dict[str, Callable[[str], np.ndarray]], articles: Sequence[str], questions: Sequence[tuple[str, str, str]]
) -> list[dict[str, Any]]:
    """Every way on every question, in turn."""
    ranks: dict[str, list[int]] = {way: [] for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for question, name, answer in questions:
        holds = np.array([right(article, name, answer) for article in articles])
        for way, scores in ways.items():
            start = time.perf_counter()
            found = scores(question)
            seconds[way].append(time.perf_counter() - start)
            ranks[way].append(1 + int(holds[np.argsort(-found, kind="stable")].argmax()))
    return [
        {
            "way": way,
            "first": float(np.mean([rank == 1 for rank in each])),
            "three": float(np.mean([rank <= 3 for rank in each])),
            "mrr": float(np.mean([1 / rank for rank in each])),
            "ms": 1000 * statistics.median(seconds[way]),
        }
        for way, each in ranks.items()
    ]


def loaded(path: Path) -> tuple[Any, Any]:
    from agent_forge.model.checkpoint import load_model

    return load_model(path)


def trained(steps: int) -> tuple[Any, Any]:
    """A small Llama that has read articles and questions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from agent_forge.data.packing import Batches, pack
    from agent_forge.data.tokenizer import train_tokenizer

    documents: list[Document] = [item.document for item in islice(generate(SEED, "facts", (LEVEL,)), 2000)]
    tokenizer = train_tokenizer([document.text for document in documents], 1024)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes))
    batches = Batches({"d": pack(documents, tokenizer)}, {"d": 1}, sequence_length=128, batch_size=16, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        batch = batches.batch(step)
        model(input_ids=batch["input_ids"], labels=batch["labels"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), tokenizer


if __name__ == "__main__":
    main()

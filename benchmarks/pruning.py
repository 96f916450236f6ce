"""What pruning and fusion do to a finished agent: quality before and after on the test split, bytes, and time.

1. Pruning under each limit of bits per byte: cuts judged by tools, persona and text of the selection split, figures of
   the test split. The agent's facts say its tools and its persona.
2. Joined projections against the plain ones, in processor time, interleaved in one process on one thread.
3. Differences of logits: gains folded, projections joined, and, to compare with, a text read token by token with the
   cache against the same text read at once.

    python benchmarks/pruning.py AGENT CORPUS [--limits 1.02 1.05] [--questions 240] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from agent_forge.agent.persona import choices, preferred, style_statistics
from agent_forge.agent.tool_exam import ask_tools, merged, questions_about, worlds_of
from agent_forge.data.corpora import Corpus
from agent_forge.data.packing import Batches, pack
from agent_forge.data.practice_dialogues import exchanges
from agent_forge.evaluation.bits_per_byte import mean_bits_per_byte, score_domains
from agent_forge.model.checkpoint import load_model, read_facts
from agent_forge.model.packed_file import PACKED
from agent_forge.model.ternary import ternary_linears
from agent_forge.model.ternary_checkpoint import save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.phases.edge.fusion import fold_norms, join_projections
from agent_forge.phases.edge.pruning import Limits, prune
from agent_forge.phases.edge.speed import prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--limits", type=float, nargs="*", default=[1.02, 1.05])
    parser.add_argument("--questions", type=int, default=240)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus = Corpus.open(options.corpus)
    result: dict[str, Any] = {"benchmark": "pruning", "agent": str(options.agent)}
    result["pruning"] = [row(options.agent, corpus, limit, options.questions) for limit in [None, *options.limits]]
    result["joined"] = joined(options.agent)
    result["logits"] = differences(options.agent, corpus)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def row(folder: Path, corpus: Corpus, limit: float | None, questions: int) -> dict[str, Any]:
    model, tokenizer = load_model(folder)
    facts: dict[str, Any] = {"limit": limit}
    if limit is not None:
        shards = {domain: pack(corpus.documents(domain, "train")[:60], tokenizer) for domain in corpus.domains}
        batches = Batches(shards, corpus.mixture(), sequence_length=128, batch_size=8, seed=0)
        start = time.process_time()
        found = prune(
            model,
            [batches.batch(step) for step in range(4)],
            exam(folder, tokenizer, corpus, "selection", questions // 3),
            limits=Limits(bits_ratio=limit),
        )
        facts |= {"seconds": time.process_time() - start, "judgements": len(found.trials), "skipped": found.skipped}
    facts["intermediate_size"] = model.config.intermediate_size
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    if ternary_linears(model):
        with tempfile.TemporaryDirectory() as place:
            save_ternary(model, tokenizer, Path(place), select(model, tokenizer), {})
            facts["packed_bytes"] = Path(place, PACKED).stat().st_size
    facts |= exam(folder, tokenizer, corpus, "test", questions)(model)
    print(facts, flush=True)
    return facts


def exam(folder: Path, tokenizer: Any, corpus: Corpus, split: Any, count: int) -> Callable[[Any], dict[str, float]]:
    facts = read_facts(folder)
    levels, tools = facts["config"]["levels"], facts["tools"]
    asked = questions_about(worlds_of(levels, corpus, facts["seed"], tools), levels, tools, split, count)
    made = choices(facts["persona"], list(islice(exchanges(79, levels, split, tools=()), count)), 5)
    domains = [domain for domain in corpus.domains if domain != "tools"]

    def judge(model: Any) -> dict[str, float]:
        scores = merged([ask_tools(model, tokenizer, box, questions, answer_tokens=40) for box, questions in asked])
        told = preferred(model, tokenizer, made)
        looks = style_statistics(facts["persona"], [found.answer for found in scores.transcripts])
        bits = mean_bits_per_byte(score_domains(model, tokenizer, corpus, split, 24, domains=domains))
        persona = (sum(told) / len(told) + looks["styled_fraction"]) / 2
        return {"tools": sum(scores.right) / len(scores.right), "persona": persona, "bits_per_byte": bits}

    return judge


def joined(folder: Path, repeats: int = 15, tokens: int = 64) -> dict[str, float]:
    (plain, _), (fused, _) = load_model(folder), load_model(folder)
    ids = torch.tensor([prompt(folder)])
    join_projections(fused, ids)

    @torch.inference_mode()
    def milliseconds(model: Any) -> float:
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        start = time.process_time()
        for _ in range(tokens):
            token = output.logits[:, -1:].argmax(-1)
            output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
        return 1e3 * (time.process_time() - start) / tokens

    pairs = [(milliseconds(plain), milliseconds(fused)) for _ in range(repeats + 1)][1:]
    ratios = [before / after for before, after in pairs]
    tenths = quantiles(ratios, n=10)
    found = {
        "plain_ms_per_token": median(before for before, _ in pairs),
        "joined_ms_per_token": median(after for _, after in pairs),
        "ratio": median(ratios),
        "ratio_10": tenths[0],
        "ratio_90": tenths[-1],
    }
    print(found, flush=True)
    return found


@torch.no_grad()
def differences(folder: Path, corpus: Corpus) -> dict[str, float]:
    model, tokenizer = load_model(folder)
    texts = [document.text for domain in corpus.domains for document in corpus.documents(domain, "selection")[:8]]
    ids = [token for text in texts for token in tokenizer(text)["input_ids"]][:1024]
    probe = torch.tensor(ids).view(4, -1)
    whole: Tensor = model(input_ids=probe, use_cache=False).logits
    output = model(input_ids=probe[:, :1], use_cache=True)
    steps = [output.logits]
    for place in range(1, probe.shape[1]):
        output = model(input_ids=probe[:, place : place + 1], past_key_values=output.past_key_values, use_cache=True)
        steps.append(output.logits)
    decoded = torch.cat(steps, 1)
    both = join_projections(model, probe)
    both.undo()
    folded = fold_norms(model, probe, through_rounding=True)
    found = {
        "folded_without_rounding": folded.difference,
        "folded": folded.difference_rounded,
        "joined": both.difference_rounded,
        "token_by_token": float((whole - decoded).abs().max()),
        "token_by_token_same_likeliest": float((whole.argmax(-1) == decoded.argmax(-1)).float().mean()),
    }
    print(found, flush=True)
    return found


if __name__ == "__main__":
    main()

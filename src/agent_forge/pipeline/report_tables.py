"""Tables of the report, made from what the phases attached. What was not attached gives an empty table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_forge.pipeline.charts import bar
from agent_forge.pipeline.report_charts import ladder_chart
from agent_forge.pipeline.scales import pareto_front


def ladder_table(ladder: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows numbered as in the chart, with the Pareto front marked."""
    rows = [dict(row) for row in ladder]
    measured = [row for row in rows if row.get("bits_per_byte") is not None]
    front = {id(measured[at]) for at in pareto_front([(row["bytes"], row["bits_per_byte"]) for row in measured])}
    for row in rows:
        row["number"] = measured.index(row) + 1 if row in measured else None
        row["best"] = id(row) in front
    svg, away = ladder_chart(rows)
    return {"rows": rows, "svg": svg, "off_the_chart": away}


def score_tables(attached: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Bits per byte as sources × models: of trunk and specialists, and of the champion and its rivals."""
    found = {
        "cognate": attached.get("cognate/bits_per_byte"),
        "evomerge": (attached.get("champion") or {}).get("bits_per_byte"),
    }
    return [{"phase": phase, **_scores(models)} for phase, models in found.items() if models]


def _scores(models: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Rows by source, and the lowest value of each."""
    sources = list(dict.fromkeys(source for row in models.values() for source in row))
    best = {source: min(row[source] for row in models.values() if source in row) for source in sources}
    return {"sources": sources, "models": dict(models), "best": best}


_CONDITIONS = {
    "own": "its own thought",
    "off": "no thought",
    "shuffled": "another question's thought",
    "filler": "filler of the same length",
}


def thought_tables(page: Mapping[str, Any]) -> dict[str, Any]:
    """Phase 3: the same questions under four conditions, and some thoughts as they came."""
    measured = page.get("measured") or {}
    rows = [
        {
            "name": said,
            "right": measured[f"quietstar/accuracy_{name}"],
            "nats": measured.get(f"quietstar/answer_nats_{name}"),
            "hardest": measured.get(f"quietstar/hardest_nats_{name}"),
        }
        for name, said in _CONDITIONS.items()
        if f"quietstar/accuracy_{name}" in measured
    ]
    return {
        "rows": rows,
        "hardest": int(measured.get("quietstar/hardest_tokens", 0)),
        "samples": list(page.get("samples") or ()),
    }


def ternary_tables(page: Mapping[str, Any]) -> dict[str, Any]:
    """Layers of phase 4 with their sensitivity, and every try of every stage."""
    layers = [{"name": name, **layer} for name, layer in (page.get("layers") or {}).items()]
    most = max([layer["sensitivity"] for layer in layers], default=0.0) or 1.0
    for layer in layers:
        layer["bar"] = bar(layer["sensitivity"] / most, f"{layer['sensitivity']:.3g}")
    return {"layers": layers, "stages": list(page.get("stages") or ())}


def baking_tables(page: Mapping[str, Any]) -> dict[str, Any]:
    """Phase 6: the persona, every round, the verdict on each tool, and ten dialogues as they came."""
    dialogues = []
    for row in page.get("dialogues") or ():
        turns = [{"kind": turn["kind"], "text": turn["text"]} for turn in row["turns"]]
        dialogues.append({"question": row["question"], "right": row["right"], "turns": turns})
    return {
        "persona": page.get("persona") or "",
        "rounds": list(page.get("rounds") or ()),
        "ended": page.get("ended") or "",
        "tools": list(page.get("tools") or ()),
        "dialogues": dialogues,
    }


def edge_tables(page: Mapping[str, Any]) -> dict[str, Any]:
    """Phase 7: what was cut and what undone, the experts, the design and how the agent fits its machine."""
    pruning, experts, fit, measured = (page.get(name) or {} for name in ("pruning", "experts", "fit", "measured"))
    trials = [
        {
            "cuts": ", ".join(f"{kind} {count}" for kind, count in _counted(trial["cuts"]).items()),
            "measured": trial["measured"],
            "undone": trial["undone"],
        }
        for trial in pruning.get("trials") or ()
    ]
    return {
        "shown": bool(page),
        "trials": trials,
        "skipped": {**(pruning.get("skipped") or {}), **(experts.get("skipped") or {})},
        "skills": experts.get("skills") or {},
        "design": _design(page.get("design") or {}),
        "target": fit.get("target") or "",
        "runtime": fit.get("runtime") or "",
        "verdicts": list(fit.get("verdicts") or ()),
        "bundle_right": measured.get("edge/bundle_right_answer"),
        "model_right": measured.get("edge/model_right_answer"),
    }


def _design(page: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen design beside the others on the test split, or why nothing was searched."""
    measured = page.get("measured") or {}
    names = {"": "chosen", "habit_": "one greedy attempt", "hand_written_": "best by hand", "random_": "random search"}
    rows = [
        {"name": name, "right": measured[f"{key}test_accuracy"], "tokens": measured[f"{key}test_tokens"]}
        for key, name in names.items()
        if f"{key}test_accuracy" in measured
    ]
    outer = page.get("design") or {}
    said = [_said({name: value for name, value in outer.items() if value not in (None, "", {})})]
    for kind, row in (outer.get("routes") or {}).items():
        said.append(f"for {kind}: " + _said({name: value for name, value in row.items() if value != outer.get(name)}))
    return {"rows": rows, "said": "; ".join(said), "skipped": page.get("skipped") or ""}


def _said(parts: Mapping[str, Any]) -> str:
    """A row of a design in words."""
    return ", ".join(f"{name} {value}" for name, value in parts.items() if name not in ("format", "routes"))


def _counted(cuts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for cut in cuts:
        found[cut["kind"]] = found.get(cut["kind"], 0) + sum(map(len, cut["units"].values()))
    return found


def compression_tables(attached: Mapping[str, Any]) -> dict[str, Any]:
    """What phase 8 chose by role and option, what each stage did to quality, and what was skipped and why."""
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for row in attached.get("compression_plan") or ():
        entry = chosen.setdefault((row["role"], row["option"]), {"tensors": 0, "bytes": 0, "weights": 0})
        entry["tensors"] += 1
        entry["bytes"] += row["bytes"]
        entry["weights"] += row["weights"]
    total = sum(entry["bytes"] for entry in chosen.values()) or 1
    rows = [
        {"role": role, "option": option, **entry, "bits_per_weight": 8 * entry["bytes"] / entry["weights"],
         "bar": bar(entry["bytes"] / total, f"{entry['bytes'] / total:.0%}")}
        for (role, option), entry in sorted(chosen.items(), key=lambda item: -item[1]["bytes"])
    ]  # fmt: skip
    reasons: dict[str, int] = {}
    for row in attached.get("compression_skipped") or ():
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    return {"chosen": rows, "stages": list(attached.get("compression_stages") or ()), "skipped": reasons}


def corpus_tables(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What each domain holds with its share of training, and what each source lost and why."""
    mixture = facts.get("mixture") or {}
    largest = max([*mixture.values(), 1e-9])
    domains = []
    for domain, splits in (facts.get("domains") or {}).items():
        share = mixture.get(domain)
        domains.append(
            {
                "name": domain,
                "train": splits.get("train"),
                "selection": splits.get("selection"),
                "test": splits.get("test"),
                "tasks": sum(split.get("tasks", 0) for split in splits.values()),
                "share": share,
                "bar": bar(share / largest, f"{share:.1%}") if share is not None else "",
            }
        )
    sources = [{"name": name, **source} for name, source in (facts.get("sources") or {}).items()]
    return {"domains": domains, "sources": sources}

"""A home with three sessions, filled through the registry's own doors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from agent_forge.contract import digest_of
from agent_forge.storage.home import Home
from agent_forge.tracking.local_store import LocalStore

GATES = {
    "cognate": [
        {
            "metric": "model/parameters",
            "comparison": "<=",
            "bound": 2e6,
            "severity": "block",
            "why": "Fits the machine.",
        },
        {
            "metric": "test/bits_per_byte",
            "comparison": "<",
            "bound": 2.5,
            "severity": "block",
            "why": "It has learned.",
        },
    ],
    "evomerge": [
        {"metric": "evolution/diversity", "comparison": ">", "bound": 0.3, "severity": "warn", "why": "No collapse."},
    ],
    "compression": [
        {
            "metric": "compression/retention",
            "comparison": ">",
            "bound": 0.95,
            "severity": "block",
            "why": "It <works>.",
        },
    ],
}
LADDER = [
    {"name": "fp32", "bytes": 4_812_004, "bits_per_byte": 1.8012, "retention": 1.0},
    {"name": "fp16", "bytes": 2_406_120, "bits_per_byte": 1.8013, "retention": 0.9999},
    {"name": "int8", "bytes": 1_212_900, "bits_per_byte": 1.8050, "retention": 0.9971},
    {"name": "ternary", "bytes": 512_040, "bits_per_byte": 1.8391, "retention": 0.9790},
    {"name": "ternary, coded", "bytes": 371_200, "bits_per_byte": 1.8391, "retention": 0.9790},
    {"name": "seedlm 3 bit", "bytes": 455_100, "bits_per_byte": 1.9420, "retention": 0.9275},
    {"name": "unmeasured", "bytes": 300_000, "bits_per_byte": None, "retention": None},
]


def individual(name, generation, parents, fitness, label):
    """One node of a family tree."""
    return {"id": name, "generation": generation, "parents": parents, "fitness": fitness, "label": label}


FAMILY = {
    "champion": "f",
    "nodes": [
        individual("a", 0, [], 0.61, "anchor linear+ties+frankenmerge"),
        individual("b", 0, [], None, "founder slerp+dare+dfs"),
        individual("c", 0, [], 0.58, "founder linear+dare+dfs"),
        individual("d", 1, ["a", "b"], 0.66, "recombined slerp+ties+dfs"),
        individual("e", 1, ["c"], 0.2, "mutant nobody+knows+dfs"),
        individual("f", 2, ["d"], 0.71, "mutant slerp+ties+frankenmerge"),
    ],
}
SCORES = {"trunk": {"stories": 1.9, "arithmetic": 1.2}, "reasoning": {"stories": 1.95, "arithmetic": 1.15}}
CHAMPION = {
    "best_parent": 0,
    "bits_per_byte": {
        "champion": {"mean": 1.47, "stories": 1.84, "arithmetic": 1.1},
        "trunk": {"mean": 1.55, **SCORES["trunk"]},
    },
}
LAYER = {"sensitivity": 0.12, "input_absmax": 4.0, "input_outlier_ratio": 9.5, "group_size": -1, "precision": "ternary"}
BITNET = {
    "layers": {"layers.0.mlp.up": LAYER, "layers.1.mlp.up": {**LAYER, "sensitivity": 0.31}},
    "stages": [
        {"stage": 0, "attempt": 1, "ratio": 2.4, "kept": False, "levels": {}},
        {"stage": 0, "attempt": 2, "ratio": 1.2, "kept": True, "levels": {}},
    ],
    "measured": {},
}
BAKING = {
    "persona": 'You are Salt, the sailor. You begin every answer with "Aye!".',
    "rounds": [{"number": 0, "tools": 0.91, "persona": 0.97, "text_ratio": 1.004}],
    "ended": "success",
    "tools": [
        {"tool": "clock", "prompted": True, "accuracy": 0.98, "harm": 0.0, "dropped": ""},
        {"tool": "search", "prompted": True, "accuracy": None, "harm": 0.0, "dropped": "no question asked for it"},
    ],
    "dialogues": [
        {
            "question": "What is 2 + 3?", "tool": "calculator", "right": True, "answer": "Aye! It is 5.",
            "stopped": "answer",
            "turns": [{"kind": "call", "text": "calculator(2 + 3)"}, {"kind": "result", "text": "5", "ok": True}],
        }
    ],
}  # fmt: skip
UNDONE = {"group": "embedding", "from": ["uniform/3"], "to": ["uniform/4"], "retention_fraction": 0.93}
COMPRESSION = {
    "compression_plan": [
        {"tensor": "embed", "role": "embedding", "option": "uniform/4", "bytes": 120_000, "weights": 260_000},
        {"tensor": "a", "role": "linear", "option": "ternary/entropy", "bytes": 100_000, "weights": 500_000},
        {"tensor": "b", "role": "linear", "option": "ternary/entropy", "bytes": 100_000, "weights": 500_000},
    ],
    "compression_skipped": [{"tensor": "a", "option": "seedlm/3", "reason": "too large"}],
    "compression_stages": [
        {"stage": "uniform", "tensors": 1, "bits_per_byte": 1.84, "retention_fraction": 0.979, "rolled_back": [UNDONE]}
    ],
}
CORPUS = {
    "mixture": {"stories": 0.6, "arithmetic": 0.4},
    "domains": {
        "stories": {
            "train": {"documents": 900, "bytes": 410_000, "tasks": 0},
            "selection": {"documents": 20, "bytes": 9_000, "tasks": 0},
            "test": {"documents": 20, "bytes": 9_200, "tasks": 0},
        },
        "arithmetic": {
            "train": {"documents": 1200, "bytes": 160_000, "tasks": 1200},
            "selection": {"documents": 24, "bytes": 3_000, "tasks": 24},
            "test": {"documents": 24, "bytes": 3_100, "tasks": 24},
        },
    },
    "sources": {
        "stories.txt": {
            "records": 1000, "pieces": 1010, "kept": 940, "kept_bytes": 428_200,
            "dropped": {"exact duplicate": 50, "too short": 20}, "examples": {},
        }
    },
}  # fmt: skip


def config(**changes):
    """The parts of a configuration that views read."""
    phases = ["cognate", "evomerge", "bitnet", "compression"]
    return {
        "preset": "smoke",
        "seed": 42,
        "phases": phases,
        "data": {"sources": ["synthetic"]},
        "gates": GATES,
        **changes,
    }


def make_artifact(home: Home, folder: Path, kind: str, text: str, **facts):
    """A real folder with one file in the blob store."""
    place = folder / digest_of([kind, text])[:12]
    place.mkdir(parents=True)
    (place / ("agent.forge" if kind == "agent_file" else "config.json")).write_text(text)
    return home.blobs.put_folder(kind, place, facts)


def log_curves(path: Path, rows: int) -> None:
    """Training that learns, with one spike and one value that is not a number."""
    store = LocalStore(path, queue_rows=rows + 1)
    for step in range(rows):
        loss = 1.6 + 4.0 * math.exp(-step / (rows / 6)) + 0.05 * math.sin(step)
        metrics = {
            "loss/total": 30.0 if step == rows // 2 else loss,
            "loss/next_token": loss - 0.1,
            "loss/step_0": loss - 0.1,
            "gate/m_usage": 0.5 + 0.2 * math.tanh((step - rows / 3) / (rows / 8)),
            "act/avg_steps": 2.4 + 0.3 * math.cos(step / rows * 5),
            "grad/norm": float("nan") if step == 7 else 2.0 + math.sin(step / 9),
            "train/rate": 1e-3 * (1 - step / rows),
        }
        if step % 10 == 0:
            metrics["valid/bits_per_byte"] = 1.8 + 3.0 * math.exp(-step / (rows / 6))
            metrics["valid/bits_per_byte/stories"] = 2.1 + 2.8 * math.exp(-step / (rows / 5))
            metrics["valid/bits_per_byte/arithmetic"] = 1.5 + 3.2 * math.exp(-step / (rows / 8))
        store.log(step, metrics)
    store.close()


@pytest.fixture
def home(tmp_path):
    """An empty home."""
    with Home.open(tmp_path / "home") as opened:
        yield opened


def add_run(home, session, phase, inputs, outputs, measured, attached=None, warnings=(), status="completed"):
    """One finished phase run."""
    key = digest_of([session if status != "reused" else "demo", phase])
    run = home.registry.begin_phase_run(session, phase, key, inputs=inputs)
    measured = {**measured, "run/seconds": 12.5, "run/peak_memory_bytes": 3.0 * 2**28}
    home.registry.commit_phase_run(run, outputs, measured, attached or {}, warnings, status=status)
    return key


@pytest.fixture
def filled_home(home, tmp_path):
    """``demo`` is complete, ``stuck`` failed a gate and reused a phase of demo, ``broken`` raised."""
    folder = tmp_path / "work"
    corpus = make_artifact(home, folder, "corpus", "corpus")
    trunk = make_artifact(home, folder, "checkpoint", "trunk", specialization="trunk")
    names = ("reasoning", "memory_integration", "adaptive_computation")
    special = tuple(make_artifact(home, folder, "checkpoint", name, specialization=name) for name in names)
    model, agent = (
        make_artifact(home, folder, "checkpoint", "model"),
        make_artifact(home, folder, "agent_file", "agent"),
    )
    made = {"specialists": special, "trunk": (trunk,)}
    learned = {"model/parameters": 1_203_001.0, "test/bits_per_byte": 1.83}
    warning = {"failure": "A2", "message": "memory is unused in <reasoning>", "evidence": {"m_usage": 0.12}}
    fitness = [
        {"generation": at, "best": 0.71 - 0.1 * 0.8**at, "mean": 0.55, "worst": 0.5, "diversity": 0.6 / (at + 1)}
        for at in range(8)
    ]
    samples = [{"prompt": "Once", "text": "upon <b>"}], [{"prompt": "2 + 2 =", "text": "4"}]
    pretrained = {"samples": samples[0], "cognate/bits_per_byte": SCORES}
    merged = {"fitness": fitness, "family_tree": FAMILY, "champion": CHAMPION}
    compressed = {**COMPRESSION, "ladder": LADDER, "samples": samples[1]}
    ternary = make_artifact(home, folder, "checkpoint", "ternary")

    machine = {"cores": 2, "libraries": {"torch": "2.13.0"}, "gpus": []}
    home.registry.create_session("demo", config(), {"environment": machine})
    given = {"corpus": (corpus,)}
    add_run(home, "demo", "data", {}, given, {"data/documents": 2188.0}, {"corpus": CORPUS})
    key = add_run(home, "demo", "cognate", given, made, learned, pretrained, [warning])
    log_curves(home.metrics_path("demo", "cognate", key), 600)
    add_run(home, "demo", "evomerge", {**made, **given}, {"model": (model,)}, {"evolution/diversity": 0.21}, merged)
    add_run(
        home, "demo", "bitnet", {"model": (model,)}, {"model": (ternary,)}, {}, {"bitnet": BITNET, "baking": BAKING}
    )
    inputs = {"model": (ternary,), "trunk": (trunk,)}
    add_run(home, "demo", "compression", inputs, {"agent": (agent,)}, {"compression/retention": 0.979}, compressed)
    home.registry.set_session_status("demo", "completed")

    home.registry.create_session("stuck", config())
    add_run(home, "stuck", "cognate", given, made, {**learned, "test/bits_per_byte": 3.0}, status="reused")
    home.registry.set_session_status("stuck", "failed")

    home.registry.create_session("broken", config())
    run = home.registry.begin_phase_run("broken", "cognate", "f" * 64, inputs={"corpus": (corpus,)})
    home.registry.fail_phase_run(
        run, "out_of_memory", "Traceback (most recent call last):\nOutOfMemory: it used 9 GiB\n"
    )
    home.registry.set_session_status("broken", "failed")
    return home

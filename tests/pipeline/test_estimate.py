"""The plan says what is cached, what will run and what it needs, and learns from earlier runs."""

import json

import pytest

from agent_forge.config import build_config
from agent_forge.contract import Artifact, digest_of
from agent_forge.errors import PlanError
from agent_forge.pipeline.estimate import estimate
from agent_forge.pipeline.fingerprint import fingerprint
from agent_forge.pipeline.ingest import INGEST, source_digests
from agent_forge.storage.home import Home

CONFIG = build_config("smoke", ["device=cpu", "threads=1"])


def rows(report):
    return {row["phase"]: row for row in report["phases"]}


def run_phase(home, session, config, phase, key, seconds, outputs=None):
    home.registry.create_session(session, config.model_dump(mode="json"))
    run = home.registry.begin_phase_run(session, phase, key)
    measured = {"run/seconds": seconds, "run/peak_memory_bytes": 2.0**30}
    home.registry.commit_phase_run(run, outputs or {}, measured)
    home.registry.set_session_status(session, "completed")


def test_without_a_home_everything_is_to_run_and_no_home_is_made(tmp_path):
    report = estimate(CONFIG, tmp_path / "home")
    assert json.loads(json.dumps(report)) == report
    assert not (tmp_path / "home").exists()
    found = rows(report)
    assert [name for name, row in found.items() if row["status"] == "to run"] == [
        "data", "cognate", "evomerge", "quietstar", "bitnet", "forge", "baking", "edge", "compression",
    ]  # fmt: skip
    assert all(found[name]["minutes"] > 0 for name in ("data", *CONFIG.phases))
    assert report["minutes"] == pytest.approx(sum(row["minutes"] or 0 for row in report["phases"]))
    assert report["memory_gib"] == max(row["memory_gib"] or 0 for row in report["phases"])
    assert (report["device"], report["threads"]) == ("cpu", 1)
    assert report["parameters"]["total"] == sum(n for part, n in report["parameters"].items() if part != "total")


def test_a_known_fingerprint_is_cached_and_what_follows_is_not(tmp_path):
    with Home.open(tmp_path / "home") as home:
        folder = tmp_path / "corpus"
        folder.mkdir()
        (folder / "corpus.json").write_text("{}")
        corpus: Artifact = home.blobs.put_folder("corpus", folder, {})
        part = CONFIG.data.model_dump(mode="json")
        key = fingerprint(
            INGEST, part, {}, seed=CONFIG.seed, device="cpu", threads=0, extra=source_digests(CONFIG.data)
        )
        run_phase(home, "before", CONFIG, "data", key, 9.0, {"corpus": (corpus,)})
    found = rows(estimate(CONFIG, tmp_path / "home"))
    assert found["data"]["status"] == "cached"
    assert found["data"]["minutes"] == 0
    assert found["cognate"]["status"] == "to run"
    other = build_config("smoke", ["device=cpu", "threads=1", "seed=7"])
    assert rows(estimate(other, tmp_path / "home"))["data"]["status"] == "to run"


def test_an_earlier_run_counts_more_than_arithmetic_and_scales_with_the_work(tmp_path):
    with Home.open(tmp_path / "home") as home:
        run_phase(home, "before", CONFIG, "cognate", digest_of("x"), 600.0)
    again = rows(estimate(CONFIG, tmp_path / "home"))["cognate"]
    assert again["minutes"] == pytest.approx(10.0)
    assert again["memory_gib"] == pytest.approx(1.0)
    assert again["rests_on"] == "its run in session before"
    longer = build_config("smoke", ["device=cpu", "threads=1", "cognate.steps=40000"])
    assert rows(estimate(longer, tmp_path / "home"))["cognate"]["minutes"] > 100


def test_a_chain_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(PlanError):
        estimate(build_config("smoke", phases=["bitnet"]), tmp_path)

"""Real files, where they are at hand: in ../shared/data beside the checkout, or named by AGENT_FORGE_REAL_DATA."""

import os
from pathlib import Path

import pytest

from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.filters import FilterSettings
from agent_forge.data.gathering import gather

ROOT = Path(os.environ.get("AGENT_FORGE_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
pytestmark = pytest.mark.skipif(not (ROOT / "eval").is_dir(), reason="the real corpora are not beside the checkout")


def test_every_file_is_understood():
    files = sorted((ROOT / "eval").glob("*.gz"))
    plain = FilterSettings(min_bytes=1, max_bytes=1 << 20, min_quality=0, near_duplicates=False)
    for file in files:
        found = gather([str(file)], plain)
        report = found.reports[file.name]
        assert report.kept > 0.98 * report.records, (file.name, report.dropped)


def test_sources_by_name_and_held_out_files(tmp_path):
    sources = [f"{ROOT / 'eval' / name}.jsonl.gz" for name in ("gsm8k_test", "tinystories_v1_valid", "mbpp_test")]
    held = ROOT / "eval" / "humaneval.jsonl.gz"
    ingest(sources, tmp_path / "c", seed=1, eval_data=[str(held)], mixture={"arithmetic": 2, "stories": 3, "code": 2})
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.domains == ["arithmetic", "code", "stories"]
    assert corpus.held_out == ["humaneval"]
    assert len(corpus.documents("humaneval", "test")) == 164
    assert all(task.answer for task in corpus.tasks("arithmetic", "train"))
    assert corpus.specialties()["adaptive_computation"] == {"stories": 1.0}

"""Pages that are made from the code say what the code says."""

import pytest

from agent_forge.cli import write_docs
from agent_forge.cli.write_docs import Citation, citations, cited, pages


@pytest.mark.parametrize("name", ["docs/cli.md", "docs/papers.md"])
def test_generated_pages_are_fresh(name):
    written = (write_docs.ROOT / name).read_text(encoding="utf-8")
    assert written == pages()[name], f"{name} is stale: run `make docs`"


def test_every_command_has_its_help():
    text = pages()["docs/cli.md"]
    for command in ("run", "plan", "resume", "sessions gc", "models lineage", "presets show", "doctor"):
        assert f"## `agent-forge {command}`" in text


def test_citations_by_hand():
    header = (
        "What it is.\n\nSources: Kimi Team 2025 (Kimi K2), arXiv:2507.20534, section 2; van den Oord et al. 2018,\n"
        'arXiv:1807.03748; window: Ma et al. 2024, "The Era of 1-bit LLMs" (arXiv:2402.17764). Also arXiv:1111.22222.'
    )
    assert list(cited("x.py", header)) == [
        Citation("x.py", "Kimi Team 2025: Kimi K2", "2507.20534"),
        Citation("x.py", "van den Oord et al. 2018", "1807.03748"),
        Citation("x.py", "Ma et al. 2024: The Era of 1-bit LLMs", "2402.17764"),
        Citation("x.py", "", "1111.22222"),
    ]
    assert list(cited("x.py", "Titans 2024: see Behrouz 2024 (Titans, arXiv:2501.00663).")) == [
        Citation("x.py", "Behrouz 2024: Titans", "2501.00663")
    ]


def test_every_paper_has_authors_and_a_year():
    nameless = sorted({(each.file, each.arxiv) for each in citations() if not each.paper})
    assert nameless == [], "the header names authors and year before the arXiv id"

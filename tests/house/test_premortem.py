"""The failure catalogue keeps its word: every entry of what is built is injected by a test that exists and runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from agent_forge.health.catalogue import CATALOGUE
from agent_forge.health.failure import EVERYWHERE
from agent_forge.health.premortem import main, render
from agent_forge.phases import ORDER

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.id)
def test_an_entry_has_a_test_or_a_reason(entry):
    assert entry.built != bool(entry.later), f"{entry.id} needs either a test or a reason why there is none"
    if entry.later and entry.phases != EVERYWHERE:
        built = set(entry.phases) & set(ORDER)
        assert not built, f"{entry.id}: {built} is built, name the test that injects it in health/entries_*"


@pytest.mark.parametrize("entry", [each for each in CATALOGUE if each.built], ids=lambda entry: entry.id)
def test_the_named_test_exists_and_is_never_skipped(entry):
    path, name = entry.test.split("::")
    functions = {
        node.name: node for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)
    }
    assert name in functions, f"{entry.id} names {name}, which is not in {path}"
    source = ast.unparse(functions[name])
    for escape in ("pytest.skip", "mark.skip", "mark.xfail", "importorskip"):
        assert escape not in source, f"{entry.test} can be skipped"
    assert any(isinstance(node, ast.Assert | ast.With) for node in ast.walk(functions[name]))


def test_what_belongs_everywhere_and_has_no_test_is_not_built():
    open_entries = {entry.id for entry in CATALOGUE if entry.phases == EVERYWHERE and not entry.built}
    assert open_entries == {"CF5", "RISK-003"}  # the service and the dashboard


def test_the_page_is_fresh(tmp_path):
    page = ROOT / "docs" / "premortem.md"
    assert page.read_text(encoding="utf-8") == render(), "run `python -m agent_forge.health.premortem`"
    assert main([str(tmp_path / "docs" / "premortem.md")]) == 0
    assert (tmp_path / "docs" / "premortem.md").read_text(encoding="utf-8") == render()


def test_the_page_names_every_entry_and_every_risk():
    text = render()
    assert all(entry.id in text for entry in CATALOGUE)
    assert "| RISK-010 |" in text
    assert "Sum before" in text

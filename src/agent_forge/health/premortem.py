"""Renders ``docs/premortem.md`` from the catalogue and the risk register.

``python -m agent_forge.health.premortem`` writes it; a house test fails when it is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from agent_forge.health.catalogue import CATALOGUE
from agent_forge.health.failure import EVERYWHERE, Failure
from agent_forge.health.risks import REGISTER, totals

_INTRODUCTION = """# How a run can fail, and what the program does about it

This page is generated from `agent_forge.health`; change the entries there and run
`python -m agent_forge.health.premortem`. Every entry with a test is injected for real by that test: it is detected,
mitigated or stopped with its diagnosis, and nothing that was committed is lost. `agent-forge doctor SESSION` reads
the curves of a run with the same conditions.
"""


def render() -> str:
    """The page as Markdown."""
    phases = [entry for entry in CATALOGUE if entry.phases != EVERYWHERE and entry.built]
    everywhere = [entry for entry in CATALOGUE if entry.phases == EVERYWHERE and entry.built]
    parts = [_INTRODUCTION, "## In a phase\n", *map(_entry, phases), "## Anywhere\n", *map(_entry, everywhere)]
    parts += ["## Not yet\n", _table(("id", "failure", "why"), ((e.id, e.title, e.later) for e in _open()))]
    parts += ["## Conditions on curves\n", _signals(), "## Risk register\n", _risks()]
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Writes the page to the path given, ``docs/premortem.md`` by default."""
    path = Path(arguments[0]) if arguments else Path("docs/premortem.md")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(), encoding="utf-8")
    return 0


def _open() -> list[Failure]:
    return [entry for entry in CATALOGUE if not entry.built]


def _entry(entry: Failure) -> str:
    rows = [
        ("cause", entry.cause),
        ("measured", entry.measured),
        ("counts as seen", entry.threshold),
        ("what happens", entry.mitigation),
        ("if that does not help", entry.fallback),
        ("shown in", entry.shown),
        ("try", entry.advice),
        ("correction of the specification", entry.correction),
        ("test", f"`{entry.test}`"),
    ]
    body = "\n".join(f"- {name}: {text}" for name, text in rows if text)
    where = "" if entry.phases == EVERYWHERE else f" ({', '.join(entry.phases)})"
    return f"### {entry.id} · {entry.title}{where}\n\n{body}\n"


def _signals() -> str:
    rows = (
        (entry.id, f"`{signal.metric}`", signal.describe(), signal.level)
        for entry in CATALOGUE
        for signal in entry.signals
    )
    return _table(("id", "curve", "condition", "level"), rows)


def _risks() -> str:
    rows = (
        (risk.id, risk.title, str(risk.score), str(risk.score_now), risk.priority_now, risk.mitigation, risk.failure)
        for risk in REGISTER
    )
    sums = totals(REGISTER)
    counts = ", ".join(f"{sums[name]} {name}" for name in ("P0", "P1", "P2", "P3"))
    table = _table(("id", "risk", "before", "now", "priority", "what was done", "watched by"), rows)
    return f"{table}\nSum before {sums['before']}, now {sums['now']}: {counts}.\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""A tool that runs programs in Python, in the strictest sandbox that holds on this machine, or in none at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent_forge.agent.sandbox import Limits, Tier, run_confined
from agent_forge.agent.schema import ToolError
from agent_forge.agent.tiers import best_tier, probe_tiers
from agent_forge.errors import ConfigError

MOST_CPU_SECONDS, MOST_MEMORY_MIB = 60, 2048
_WALL_PER_CPU_SECOND = 2.5


def python_tool(
    cpu_seconds: int = 2, memory_mib: int = 256, tier: Tier | None = None
) -> tuple[Callable[[Mapping[str, Any]], str], str, dict[str, Any]]:
    """What runs the programs, why it cannot be used here (empty if it can), and notes for the audit.

    Args:
        cpu_seconds: of processor time for a program, 1–60; of wall-clock time it gets 2.5 times as much.
        memory_mib: of address space, 64–2,048.
        tier: one that holds here; None = the strictest that does.

    Raises:
        ConfigError: a limit outside its range: a manifest may not ask for more.
    """
    if not 1 <= cpu_seconds <= MOST_CPU_SECONDS or not 64 <= memory_mib <= MOST_MEMORY_MIB:
        raise ConfigError(
            f"a program may have 1–{MOST_CPU_SECONDS} s and 64–{MOST_MEMORY_MIB} MiB, "
            f"not {cpu_seconds} s and {memory_mib} MiB"
        )
    limits = Limits(cpu_seconds, _WALL_PER_CPU_SECOND * cpu_seconds, memory_mib << 20)
    held = tier or best_tier()
    if held is None:
        return lambda given: "", no_sandbox(), {"sandbox": "none"}

    def run(given: Mapping[str, Any]) -> str:
        outcome = run_confined(given["code"], held, limits)
        if outcome.error:
            raise ToolError(outcome.error)
        return outcome.output or "it printed nothing"

    return run, "", {"sandbox": held}


def no_sandbox() -> str:
    """Why programs are not run on this machine."""
    tried = "; ".join(f"{found.tier}: {found.why}" for found in probe_tiers())
    return f"programs are not run here, since no sandbox holds ({tried})"

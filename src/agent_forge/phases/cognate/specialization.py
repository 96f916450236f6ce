"""Is every specialist the best on what it was made for? Figures from bits per byte by domain."""

from __future__ import annotations

from collections.abc import Mapping


def specialization_score(
    bits: Mapping[str, Mapping[str, float]], specialties: Mapping[str, Mapping[str, float]]
) -> tuple[float, dict[str, float]]:
    """Share of the domains' evaluations that their own specialist wins.

    Args:
        bits: bits per byte by specialist and domain; lower is better, a tie is not a win.
        specialties: for each specialist the domains it stands for.

    Returns:
        The share (0–1) over all domains, and for each specialist its relative gain on its own domains over
        the better of the other two, averaged.

    Raises:
        ValueError: a specialist without figures or without domains.
    """
    if without := [name for name in specialties if not set(specialties[name]) & set(bits.get(name, {}))]:
        raise ValueError(f"no figures for specialist {', '.join(without)}; figures: {sorted(bits)}")
    wins, contests = 0, 0
    gains: dict[str, float] = {}
    for name, domains in specialties.items():
        own = [domain for domain in domains if domain in bits[name]]
        relative = []
        for domain in own:
            rival = min(bits[other][domain] for other in specialties if other != name)
            relative.append(1 - bits[name][domain] / rival)
            wins += bits[name][domain] < rival
            contests += 1
        gains[name] = sum(relative) / len(relative)
    return wins / contests, gains

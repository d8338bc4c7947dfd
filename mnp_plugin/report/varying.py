"""Which values of several runs vary by themselves, and what differs between them: seeds, or draws of the clean images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

AVERAGED = "victim seed (draws averaged)"
Run = tuple[str, int, int, float]
"""Attack, seed, draw, value."""


class Varying(NamedTuple):
    """Values that vary by themselves.

    Args:
        values: one per seed, or one per draw of a single victim.
        what: differs between them, in words.
    """

    values: list[float]
    what: str


def varying(runs: Iterable[tuple[int, int, float]]) -> Varying:
    """The values of runs (seed, draw, value).

    The seed is the unit: it trains another victim and divides the data anew. Draws of one victim are averaged first, unless
    there is one victim alone.
    """
    by_seed: dict[int, list[float]] = {}
    for seed, _, value in runs:
        by_seed.setdefault(seed, []).append(value)
    if len(by_seed) > 1:
        several = any(len(values) > 1 for values in by_seed.values())
        return Varying([fmean(values) for values in by_seed.values()], AVERAGED if several else "victim seed")
    return Varying(next(iter(by_seed.values()), []), "clean draw, one victim")


def mean_over_attacks(runs: Sequence[Run]) -> Varying | None:
    """The means over attacks of each seed (or draw); None for a single one, or where attacks were run with different ones.

    With other seeds for other attacks, the means would differ by what they are over as well.
    """
    by_run: dict[tuple[int, int], dict[str, float]] = {}
    for attack, seed, draw, value in runs:
        by_run.setdefault((seed, draw), {})[attack] = value
    attacks = {attack for attack, _, _, _ in runs}
    if any(set(values) != attacks for values in by_run.values()):
        return None
    found = varying((seed, draw, fmean(values.values())) for (seed, draw), values in by_run.items())
    return found if len(found.values) > 1 else None

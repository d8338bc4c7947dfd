"""One defense against another on the same attacks: Wilcoxon's signed-rank test (scipy's) and the size of the effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mnp_plugin.report.ranks import block, complete

LEAST = 6
"""Fewer pairs that differ cannot reach p < 0.05, whatever they say: 2 / 2**5 is 0.0625."""
MOST_TRIED = 13
"""Up to this many pairs scipy's permutation test tries all signs (2**13 is below its 9999 draws); of more it draws some."""
FAVOURITE = "mnp"
"""The defense that others are compared with, where there is one of that name."""


@dataclass(frozen=True)
class Comparison:
    """``one`` against ``other`` by DER, over the attacks that both were measured on.

    Args:
        one: label.
        other: label.
        pairs: how many attacks.
        better: on how many ``one`` is better.
        worse: likewise.
        median: of the differences, in points of DER; positive where ``one`` is better.
        p_value: two-sided; None where no pair differs.
        p_holm: ``p_value`` corrected for all comparisons made with it (Holm).
        effect: matched-pairs rank-biserial correlation: 1 if ``one`` is better on every attack, -1 if worse (Kerby, 2014).
    """

    one: str
    other: str
    pairs: int
    better: int
    worse: int
    median: float
    p_value: float | None
    effect: float | None
    p_holm: float | None = None


def comparisons(table: pd.DataFrame, one: str | None = None) -> list[Comparison]:
    """``one`` against every other defense, in the order of their names.

    Args:
        table: part of a leaderboard of one data set, net and number of clean images.
        one: label; None takes ``mnp`` if it is there, or else the defense with the highest mean DER over the attacks of all.
    """
    scores = block(table)
    if one is None:
        means = complete(scores).drop(columns="none", errors="ignore").mean()
        one = FAVOURITE if FAVOURITE in scores else str(means.idxmax()) if len(means) else None
    if one is None or one not in scores:
        return []
    found = []
    for other in scores.columns:
        both = scores[[one, other]].dropna() if other != one else scores.iloc[:0]
        if len(both):
            found.append(_compared(one, str(other), (both[one] - both[other]).round(6).to_numpy(dtype=float)))
    return _corrected(found)


def _compared(one: str, other: str, difference: np.ndarray) -> Comparison:
    from scipy.stats import PermutationMethod, rankdata, wilcoxon

    unequal = difference[difference != 0]
    p_value = effect = None
    if len(unequal):
        weights = rankdata(np.abs(unequal))
        effect = float((weights * np.sign(unequal)).sum() / weights.sum())
        tied, n = len(set(np.abs(unequal))) < len(unequal), len(unequal)
        # The table of exact values knows no ties; of few pairs all 2^n signs are tried instead.
        method = PermutationMethod() if tied and n <= MOST_TRIED else "exact" if not tied and n <= 50 else "approx"
        p_value = float(wilcoxon(unequal, method=method).pvalue)
    return Comparison(
        one=one,
        other=other,
        pairs=len(difference),
        better=int((difference > 0).sum()),
        worse=int((difference < 0).sum()),
        median=float(np.median(difference)),
        p_value=p_value,
        effect=effect,
    )


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    """``found`` with Holm's correction over those that have a p-value."""
    tested = sorted((item.p_value, i) for i, item in enumerate(found) if item.p_value is not None)
    corrected, least = list(found), 0.0
    for place, (p_value, i) in enumerate(tested):
        least = max(least, min(1.0, (len(tested) - place) * p_value))
        corrected[i] = replace(found[i], p_holm=least)
    return corrected

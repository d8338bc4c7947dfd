"""Ranks of defenses over attacks: Friedman's test, Nemenyi's after it, and the groups of a critical-difference diagram.

Source: Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006. Attacks take the part of data sets.
The tests are scipy's. Nemenyi's is its studentised range alone: scikit-posthocs, which has it too, takes four seconds to import,
and stands in our tests, which compare what is told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

ALPHA = 0.05


@dataclass(frozen=True)
class Ranking:
    """Mean ranks by DER, 1 the best.

    Args:
        ranks: mean rank of each defense, best first.
        attacks: how many attacks they are over.
        p_value: Friedman's: chance of ranks as unequal if all defenses were alike.
        difference: two mean ranks that differ by less are not told apart at 5 % (Nemenyi).
        groups: defenses that are not told apart, as (first, last) positions in ``ranks``; single ones are left out.
        left_out: defenses measured on fewer than half of the attacks, which would have left few to compare on.
        dropped: attacks that not all of the others were measured on.
    """

    ranks: dict[str, float]
    attacks: int
    p_value: float
    difference: float
    groups: list[tuple[int, int]]
    left_out: list[str]
    dropped: list[str]


def compared(table: pd.DataFrame) -> pd.Series:
    """Which rows are compared with each other: those without a defense, and of defenses that stop blind by clean images alone."""
    own = table["selection"] != "oracle"
    return own & (table["knowledge"] == "") if "knowledge" in table else own


def may_be_best(row: Mapping[Any, Any]) -> bool:
    """Whether a row is a :func:`compared` one, and of a defense."""
    return bool(row["selection"] == "blind" and not row.get("knowledge"))


def block(table: pd.DataFrame) -> pd.DataFrame:
    """DER of the :func:`compared` rows whose attack took: attacks in rows, defenses in columns.

    Args:
        table: part of a leaderboard of one data set, net and number of clean images.
    """
    rows = table[(table["attack"] != "clean") & (table["flag"] == "") & compared(table) & table["der"].notna()]
    label = [attack_label(row) for row in rows.to_dict("records")]
    return rows.assign(label=label).pivot_table(index="label", columns="defense", values="der", aggfunc="mean", sort=True)


def complete(scores: pd.DataFrame) -> pd.DataFrame:
    """A :func:`block` without gaps: first defenses go that lack more than half of the attacks, then attacks that others lack."""
    few = scores.columns[scores.notna().sum() * 2 < len(scores)]
    return scores.drop(columns=few).dropna()


def mean_ranks(whole: pd.DataFrame) -> pd.Series:
    """Mean rank of each column of a :func:`complete` block, 1 the best; equal scores are ties, whatever their last bit is."""
    return whole.round(6).rank(axis=1, ascending=False).mean()


def attack_label(row: dict[Any, Any]) -> str:
    """Attack and poison ratio of a row of the leaderboard, as tables name it."""
    return str(row["attack"]) if pd.isna(row["poison_ratio"]) else f"{row['attack']} {row['poison_ratio']:g}"


def ranking(table: pd.DataFrame) -> Ranking | None:
    """Rank the defenses of ``table`` (as for :func:`block`); None for fewer than three of them or fewer than two attacks."""
    scores = block(table)
    whole = complete(scores)
    n, k = whole.shape
    if n < 2 or k < 3:
        return None
    from scipy.stats import friedmanchisquare, studentized_range  # here: it takes most of a second

    mean, rounded = mean_ranks(whole), whole.round(6)
    order = sorted(mean.index, key=lambda name: (mean[name], name))
    alike = bool((rounded.nunique(axis=1) == 1).all())
    p_value = 1.0 if alike else float(friedmanchisquare(*(rounded[name] for name in rounded.columns)).pvalue)
    unit = (k * (k + 1) / (12 * n)) ** 0.5
    difference = float(studentized_range.ppf(1 - ALPHA, k, float("inf"))) * unit
    return Ranking(
        ranks={str(name): float(mean[name]) for name in order},
        attacks=n,
        p_value=p_value,
        difference=difference,
        groups=groups([float(mean[name]) for name in order], difference),
        left_out=[str(name) for name in scores.columns.difference(whole.columns)],
        dropped=[str(name) for name in scores.index.difference(whole.index)],
    )


def groups(ranks: list[float], difference: float) -> list[tuple[int, int]]:
    """Longest runs of the sorted ``ranks`` that differ by less than ``difference``, as (first, last) positions."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(i for i in range(len(ranks)) if ranks[i] - ranks[first] < difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found

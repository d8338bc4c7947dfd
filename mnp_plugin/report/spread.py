"""How much means vary, and over what: seeds, draws of the clean images, attacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnp_plugin.report.frames import RATES, counted
from mnp_plugin.report.varying import varying

CELL = ("dataset", "net", "attack", "poison_ratio", "clean_images", "defense", "selection")
INTERVAL_COLUMNS = (*CELL, "score", "mean", "std", "low", "high", "n", "varies")
"""Columns of ``intervals.csv``: one line per cell and score of which there are several runs."""

FEW = 5
"""Fewer values than this make an interval that is hardly more than a guess."""
DRAWS = 5000
"""Draws of the bootstrap."""


@dataclass(frozen=True)
class Spread:
    """A mean with its 95 % interval.

    Args:
        mean: of the values.
        std: their standard deviation.
        low: lower bound of the interval.
        high: upper bound.
        n: how many values.
        varies: what differs between them, in words.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int
    varies: str


def over_runs(runs: Iterable[tuple[int, int, float]], bounds: tuple[float, float] | None = (0.0, 100.0)) -> Spread | None:
    """Mean over runs with the interval of Student's t; None for a single run.

    What counts as one is as :func:`~mnp_plugin.report.varying.varying` says; over draws of one victim, the interval says how much
    the clean images matter, and nothing of other victims.

    Args:
        runs: (seed, draw, value) of each.
        bounds: what the interval is clipped to; rates cannot leave 0 to 100.
    """
    values, what = varying(runs)
    if len(values) < 2:
        return None
    mean, std = fmean(values), stdev(values)
    half = quantile(len(values) - 1) * std / len(values) ** 0.5
    low, high = mean - half, mean + half
    if bounds is not None:
        low, high = max(bounds[0], low), min(bounds[1], high)
    return Spread(mean, std, low, high, len(values), what)


@cache
def quantile(freedom: int) -> float:
    """Of Student's t for an interval of 95 %."""
    from scipy.special import stdtrit  # here: scipy.stats takes longer to import

    return float(stdtrit(freedom, 0.975))


def over_attacks(values: Sequence[float]) -> Spread | None:
    """Mean over attacks with the 95 % percentile interval of a bootstrap over them; None with fewer than :data:`FEW`.

    It says how the mean would vary with other attacks of the same kind, not with other seeds. The same for the same values.
    """
    if len(values) < FEW:
        return None
    known = np.sort(np.asarray(values, dtype=float))
    means = known[_resampled(len(known))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Spread(float(known.mean()), float(known.std(ddof=1)), float(low), float(high), len(known), "attack")


@cache
def _resampled(n: int) -> NDArray[np.int64]:
    """Draws of the bootstrap over ``n`` values, as their places; the same each time."""
    return np.random.default_rng(0).integers(n, size=(DRAWS, n))


def intervals(runs: pd.DataFrame) -> pd.DataFrame:
    """:func:`over_runs` of every cell and score in ``runs``; columns :data:`INTERVAL_COLUMNS`."""
    rows, used = [], counted(runs)
    values = used[["seed", "draw", *RATES]].to_numpy(dtype=object)
    for key, lines in used.groupby(list(CELL), sort=True, dropna=False).indices.items():
        if len(lines) < 2 or not isinstance(key, tuple):
            continue
        cell = dict(zip(CELL, key, strict=True))
        group = [values[i] for i in lines]
        for at, score in enumerate(RATES, 2):
            bounds = (-100.0 if score in ("delta_acc", "excess_asr") else 0.0, 100.0)
            found = over_runs([(one[0], one[1], one[at]) for one in group if not pd.isna(one[at])], bounds)
            if found is not None:
                rows.append({**cell, "score": score, **vars(found)})
    return pd.DataFrame(rows, columns=list(INTERVAL_COLUMNS))


def to_csv(table: pd.DataFrame) -> str:
    """The text of ``intervals.csv``: two decimals."""
    text = table.copy()
    numbers = ["mean", "std", "low", "high"]
    text[numbers] = text[numbers].astype(float).round(2) + 0.0  # no -0.00
    text["poison_ratio"] = [None if pd.isna(v) else f"{v:g}" for v in table["poison_ratio"]]
    csv: str = text.to_csv(index=False, float_format="%.2f", lineterminator="\n")
    return csv

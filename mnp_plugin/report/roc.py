"""ROC curves as lists of points: of one set of scores, shorter, and the mean of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Curve = list[list[float]]
"""Points [false positive rate, true positive rate] in [0, 1], from (0, 0) to (1, 1)."""

MOST = 200
"""Points of a curve that is kept."""
GRID = 100
"""False positive rates, evenly spaced, at which curves are averaged."""


def curve(negatives: Sequence[float], positives: Sequence[float]) -> tuple[list[float], list[float]]:
    """(false positive rates, true positive rates) of every threshold, in [0, 1], from (0, 0) to (1, 1)."""
    limits = np.unique(np.asarray([*negatives, *positives], dtype=float))[::-1]
    rates = [
        (len(values) - np.searchsorted(np.sort(np.asarray(values, dtype=float)), limits)) / len(values)
        for values in (negatives, positives)
    ]
    return [0.0, *rates[0].tolist()], [0.0, *rates[1].tolist()]


def kept(negatives: Sequence[float], positives: Sequence[float]) -> Curve:
    """The curve by its corners, at most :data:`MOST` of them, four digits; both hold at least one score."""
    points = np.stack(curve(negatives, positives), 1)
    steps = np.diff(points, axis=0)
    turns = steps[:-1, 0] * steps[1:, 1] != steps[:-1, 1] * steps[1:, 0]
    points = points[np.concatenate([[True], turns, [True]])]
    if len(points) > MOST:
        points = points[np.linspace(0, len(points) - 1, MOST).round().astype(int)]
    found: Curve = points.round(4).tolist()
    return found


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean true positive rate of ``curves`` at each of :data:`GRID` + 1 false positive rates; at least one curve."""
    rates = np.linspace(0, 1, GRID + 1)
    mean = np.mean([_at(np.asarray(one, dtype=float), rates) for one in curves], axis=0)
    points = np.vstack([[0.0, 0.0], np.stack([rates, mean], 1)]).round(4)
    found: Curve = points.tolist()
    return found


def _at(points: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """The largest true positive rate at each false positive rate, linear between points."""
    fpr, tpr = points.T
    left = np.searchsorted(fpr, rates, side="right") - 1
    right = np.minimum(left + 1, len(fpr) - 1)
    gap = fpr[right] - fpr[left]
    share = np.divide(rates - fpr[left], gap, out=np.zeros_like(rates), where=gap > 0)
    found: np.ndarray = tpr[left] + share * (tpr[right] - tpr[left])
    return found

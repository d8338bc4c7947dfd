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


def curve(negatives: Sequence[float], positives: Sequence[float], *, corners: bool = False) -> tuple[list[float], list[float]]:
    """(false positive rates, true positive rates) of every threshold, in [0, 1], from (0, 0) to (1, 1).

    Args:
        negatives: scores of what is healthy, at least one.
        positives: scores of what is not, at least one.
        corners: leave out what lies on a line between others.
    """
    from sklearn.metrics import roc_curve  # here: importing scikit-learn takes a second

    truth = np.repeat([0, 1], [len(negatives), len(positives)])
    fpr, tpr, _ = roc_curve(truth, [*negatives, *positives], drop_intermediate=corners)
    return fpr.tolist(), tpr.tolist()


def kept(negatives: Sequence[float], positives: Sequence[float]) -> Curve:
    """The curve by its corners, at most :data:`MOST` of them, four digits; both hold at least one score."""
    points = np.stack(curve(negatives, positives, corners=True), 1)
    if len(points) > MOST:
        points = points[np.linspace(0, len(points) - 1, MOST).round().astype(int)]
    found: Curve = points.round(4).tolist()
    return found


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean true positive rate of ``curves`` at each of :data:`GRID` + 1 false positive rates; at least one curve."""
    rates = np.linspace(0, 1, GRID + 1)
    mean = np.mean([np.interp(rates, *np.asarray(one, dtype=float).T) for one in curves], axis=0)
    points = np.vstack([[0.0, 0.0], np.stack([rates, mean], 1)]).round(4)
    found: Curve = points.tolist()
    return found

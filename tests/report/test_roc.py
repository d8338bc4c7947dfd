"""ROC curves as points."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mnp_plugin.report.detection import auroc
from mnp_plugin.report.roc import GRID, MOST, curve, kept, mean_curve


def area(points: list[list[float]]) -> float:
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


def test_a_curve_begins_and_ends_in_the_corners_and_its_area_is_the_auroc() -> None:
    fpr, tpr = curve([0.0, 1.0, 2.0], [1.0, 3.0])
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    found = area([list(point) for point in zip(fpr, tpr, strict=True)])
    assert found == pytest.approx(4.5 / 6)  # pairs: 1 beats 0 and ties 1; 3 beats all


def test_what_is_kept_has_the_same_area_by_few_points() -> None:
    stream = np.random.default_rng(0)
    distinct = stream.normal(0, 1, 30).tolist(), stream.normal(1, 1, 40).tolist()
    tied = stream.integers(0, 4, 500).tolist(), stream.integers(1, 5, 500).tolist()
    for negatives, positives in (distinct, tied):
        found = kept(negatives, positives)
        assert (found[0], found[-1]) == ([0, 0], [1, 1])
        assert area(found) == pytest.approx(auroc(negatives, positives), abs=1e-3)
    assert len(kept(*distinct)) < 60, "of 71 points, those on a line are left out"


def test_a_training_set_keeps_two_hundred_points() -> None:
    stream = np.random.default_rng(0)
    negatives, positives = stream.normal(0, 1, 45_000).tolist(), stream.normal(1, 1, 5_000).tolist()
    found = kept(negatives, positives)
    assert len(found) == MOST
    assert (found[0], found[-1]) == ([0, 0], [1, 1])
    assert area(found) == pytest.approx(auroc(negatives, positives), abs=2e-3)


def test_all_alike_is_the_diagonal() -> None:
    assert kept([1.0], [1.0, 1.0]) == [[0, 0], [1, 1]]


def test_the_mean_of_curves_is_taken_at_each_false_positive_rate() -> None:
    perfect, chance = [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]]
    found = mean_curve([perfect, chance])
    assert len(found) == GRID + 2
    assert found[:2] == [[0, 0], [0, 0.5]], "straight up where the curves go up"
    assert found[51] == [0.5, 0.75]
    assert found[-1] == [1, 1]
    assert area(mean_curve([perfect, chance])) == pytest.approx(0.75)

"""Scores from predictions, counted by hand."""

from __future__ import annotations

import pytest
import torch

from mnp_plugin.contracts import MethodError
from mnp_plugin.evaluation.scores import rate, scores
from mnp_plugin.report.records import Scores

CLEAN_PRED, CLEAN_Y = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 1, 2, 2, 2])  # 3 of 5 right


@pytest.mark.parametrize(("hits", "expected"), [([True], 1.0), ([False, False], 0.0), ([True, False, False, True], 0.5)])
def test_rate(hits: list[bool], expected: float) -> None:
    assert rate(torch.tensor(hits)) == expected


def test_rate_is_exact() -> None:
    hits = torch.zeros(3_000_001, dtype=torch.bool)
    hits[:1_000_000] = True
    assert rate(hits) == 1_000_000 / 3_000_001


def test_scores_by_hand() -> None:
    y_true = torch.tensor([1, 1, 2, 2, 3, 3, 1, 2])
    y_attack = torch.zeros(8, dtype=torch.int64)
    predicted = torch.tensor([0, 1, 0, 0, 3, 1, 0, 1])  # 4 of 8 to the target, 2 of 8 as they are
    assert scores(CLEAN_PRED, CLEAN_Y, predicted, y_true, y_attack) == Scores(acc=0.6, asr=0.5, ra=0.25)


def test_scores_all_to_all() -> None:
    y_true = torch.tensor([0, 1, 2, 2])
    y_attack = torch.tensor([1, 2, 0, 0])
    predicted = torch.tensor([1, 1, 0, 0])
    assert scores(CLEAN_PRED, CLEAN_Y, predicted, y_true, y_attack) == Scores(acc=0.6, asr=0.75, ra=0.25)


def test_clean_model_has_accuracy_only() -> None:
    assert scores(CLEAN_PRED, CLEAN_Y, None, None, None) == Scores(acc=0.6, asr=None, ra=None)


def test_nothing_to_measure_on() -> None:
    none = torch.empty(0, dtype=torch.int64)
    with pytest.raises(MethodError, match="nothing to measure on"):
        rate(torch.empty(0, dtype=torch.bool))
    with pytest.raises(MethodError, match="nothing to measure on"):
        scores(none, none, None, None, None)
    with pytest.raises(MethodError, match="nothing to measure on"):
        scores(CLEAN_PRED, CLEAN_Y, none, none, none)

"""The field's scores, as pure functions of predictions. Fractions in [0, 1].

DER, which needs no predictions, stands in :mod:`mnp_plugin.records`.
"""

from __future__ import annotations

from torch import Tensor

from mnp_plugin.contracts import MethodError
from mnp_plugin.records import Scores


def rate(hits: Tensor) -> float:
    """Share of True in a bool tensor [N]; exact for N below 2**53.

    Raises:
        MethodError: N is 0, so there is nothing to measure on.
    """
    if hits.numel() == 0:
        raise MethodError("nothing to measure on: the (triggered) test set is empty")
    return int(hits.sum()) / hits.numel()


def scores(
    clean_pred: Tensor, clean_y: Tensor, triggered_pred: Tensor | None, y_true: Tensor | None, y_attack: Tensor | None
) -> Scores:
    """ACC on the clean test set; ASR and RA on the triggered one (which already leaves the target class out)."""
    acc = rate(clean_pred == clean_y)
    if triggered_pred is None or y_true is None or y_attack is None:
        return Scores(acc=acc)
    return Scores(acc=acc, asr=rate(triggered_pred == y_attack), ra=rate(triggered_pred == y_true))

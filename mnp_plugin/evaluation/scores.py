"""The field's scores, as pure functions of predictions. Fractions in [0, 1].

DER, which needs no predictions, stands in :mod:`mnp_plugin.report.records`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mnp_plugin.contracts import MethodError
from mnp_plugin.report.records import Scores


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


def confusion(true: Tensor, predicted: Tensor, classes: int) -> list[list[int]]:
    """How many images of each class (rows) are predicted as each (columns); both int64 [N]."""
    found: list[list[int]] = torch.bincount(true * classes + predicted, minlength=classes**2).view(classes, classes).tolist()
    return found


def stealth(clean: Tensor, triggered: Tensor) -> dict[str, float | None]:
    """How little a trigger shows: means over images, in float and before any rounding.

    Args:
        clean: float32 [N, C, H, W] in [0, 1].
        triggered: the same images with the trigger.

    Returns:
        ``psnr`` in dB (higher is stealthier; over the images that the trigger changes at all, None if it changes none),
        ``ssim`` (Wang et al., IEEE TIP 2004, Gaussian window of sigma 1.5) and ``linf``, the largest change of a pixel as a
        share of the full scale.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # here: importing it takes seconds

    change = (triggered - clean).flatten(1)
    error = change.square().mean(1)
    error = error[error > 0]
    psnr = round(float((-10 * error.log10()).mean()), 3) if len(error) else None
    similar = 0.0
    for start in range(0, len(clean), 500):
        a, b = triggered[start : start + 500], clean[start : start + 500]
        similar += float(structural_similarity_index_measure(a, b, data_range=1.0, reduction="sum"))  # type: ignore[arg-type]
    return {
        "psnr": psnr,
        "ssim": round(similar / len(clean), 5),
        "linf": round(float(change.abs().amax(1).mean()), 5),
    }

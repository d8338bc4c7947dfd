"""A detector's threshold from clean nets of one's own. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnp_plugin.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A threshold, and how far it can be trusted.

    Args:
        threshold: of ``nets`` clean nets, ``above`` score higher.
        nets: how many clean nets there were.
        above: how many of them score above the threshold.
        low: lower end of the 95 % interval of the share of clean nets of this kind that score above it.
        high: upper end.
    """

    threshold: float
    nets: int
    above: int
    low: float
    high: float


def calibrate(scores: Sequence[float], fpr: float = 0.05) -> Calibration:
    """The lowest score of a clean net that at most a share ``fpr`` of them exceed.

    The interval holds for any distribution of scores: the share above the j-th largest of n is Beta(j, n - j + 1).

    Raises:
        UserError: fewer than two scores, one that is not finite, or a share outside (0, 1).
    """
    from scipy.special import betaincinv  # here: the command line starts without it

    if not 0 < fpr < 1:
        raise UserError(f"the share of false alarms must be between 0 and 1, not {fpr!r}")
    if len(scores) < 2 or not all(math.isfinite(score) for score in scores):
        raise UserError(f"give finite scores of two clean nets or more; with {len(scores)} nothing can be calibrated")
    count = len(scores)
    allowed = int(fpr * count + 1e-9)
    threshold = sorted(scores, reverse=True)[allowed]
    rank = allowed + 1
    return Calibration(
        threshold=threshold,
        nets=count,
        above=sum(score > threshold for score in scores),
        low=float(betaincinv(rank, count - rank + 1, 0.025)),
        high=float(betaincinv(rank, count - rank + 1, 0.975)),
    )


def scores_in(files: Sequence[Path]) -> tuple[dict[str, Any], list[float]]:
    """(the detector, its scores) from files that ``mnp-bench detect --json`` printed, one for each clean net.

    Raises:
        UserError: a file that is no such report, has no score, or is of another detector or other settings.
    """
    detector: dict[str, Any] | None = None
    scores = []
    for file in files:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            own, score = found["detector"], float(found["score"])
        except OSError as error:
            raise UserError(f"{file}: {error.strerror or error}") from None
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{file}: no verdict with a score; make it with: mnp-bench detect --json ... > {file}") from None
        own = {key: value for key, value in own.items() if key != "threshold"}
        if detector is not None and own != detector:
            raise UserError(f"{file}: another detector, or other settings, than {files[0]}; scores of one only can be compared")
        detector = own
        scores.append(score)
    return detector or {}, scores

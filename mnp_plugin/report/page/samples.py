"""What the page shows of detectors of single images, as plain JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from mnp_plugin.report.page.numbers import shown_as
from mnp_plugin.report.ranks import attack_label
from mnp_plugin.report.roc import mean_curve
from mnp_plugin.report.samples import SampleRecord
from mnp_plugin.report.shown import Shown

RATES = ("tpr_at_5_fpr", "tpr", "fpr")
"""Shares of images, of every row."""
Groups = Mapping[tuple[str, str, int], int]
"""Number, on the page, of a data set, a net and a number of clean images."""


def screened(shown: Shown, groups: Groups) -> dict[str, Any]:
    """A row per detector and attack, and one, ``all``, over all attacked victims; mean ROC curves; what failed.

    Empty where the suite has no such detector. AUROC in [0, 1], other rates in percent. Victims whose attack failed do not count.
    """
    own = shown.own
    if not own.samples or own.plan is None:
        return {}
    parts: dict[tuple[int, str, str], list[SampleRecord]] = {}
    for record in own.samples:
        group = groups.get((record.dataset, record.net, record.clean_images))
        if group is not None and record.status == "ok":
            parts.setdefault((group, record.questions, record.detector), []).append(record)
    rows, curves = [], []
    for (group, questions, detector), records in sorted(parts.items()):
        about = {"group": group, "questions": questions, "detector": detector}
        took = [record for record in records if record.positives and shown.took(record)]
        healthy = [record for record in records if record.attack == "clean"]
        rows.append(about | {"attack": "all"} | _row(took, healthy))
        by_attack: dict[str, list[SampleRecord]] = {}
        for record in took:
            by_attack.setdefault(attack_label(vars(record)), []).append(record)
        rows += [about | {"attack": label} | _row(part, []) for label, part in sorted(by_attack.items())]
        if known := [record.roc for record in took if record.roc]:
            curves.append({**about, "victims": len(known), "roc": mean_curve(known)})
    failed = Counter((record.detector, record.reason) for record in own.samples if record.status != "ok")
    return {
        "rows": rows,
        "curves": curves,
        "failed": [[detector, reason, count] for (detector, reason), count in sorted(failed.items())],
    }


def _row(took: Sequence[SampleRecord], healthy: Sequence[SampleRecord]) -> dict[str, Any]:
    seconds = [record.seconds for record in (*took, *healthy) if record.seconds is not None]
    return {
        "victims": len(took),
        **_spread("auroc", [record.auroc for record in took], 2, 1),
        **{key: one for name in RATES for key, one in _spread(name, [getattr(record, name) for record in took], 1, 100).items()},
        **_spread("fpr_healthy", [record.fpr for record in healthy], 1, 100),
        "healthy": len(healthy),
        "seconds": shown_as(fmean(seconds)) if seconds else None,
    }


def _spread(name: str, values: Sequence[float | None], digits: int, times: float) -> dict[str, float | None]:
    """Mean and standard deviation of what is known, as they are shown with so many digits."""
    known = [times * value for value in values if value is not None]
    return {
        name: shown_as(fmean(known), digits) if known else None,
        f"{name}_std": shown_as(stdev(known), digits) if len(known) > 1 else None,
    }

"""How well detectors tell attacked nets from healthy ones. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mnp_plugin.report.verdicts import VerdictRecord

COLUMNS = (
    "dataset", "net", "clean_images", "detector", "attack", "clean_nets", "attacked_nets", "auroc", "auroc_low", "auroc_high",
    "tpr_at_5_fpr", "target_hit", "called_backdoored", "called_backdoored_clean", "seconds", "flag",
)  # fmt: skip
"""Columns of ``detection.csv``: one line per attack, and one, ``all``, over all attacked nets. AUROC in [0, 1], else percent.

``auroc_low`` and ``auroc_high`` bound the 95 % interval of the bootstrap over nets. ``target_hit`` is the share of attacked nets
whose suspected class is a true target, over those with a target and a suspicion to compare.
"""

DRAWS = 2000
"""Draws of the bootstrap."""


def auroc(healthy: Sequence[float], attacked: Sequence[float]) -> float:
    """Chance that an attacked net scores above a healthy one, ties counted half; both hold at least one score."""
    above = np.subtract.outer(np.asarray(attacked), np.asarray(healthy))
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def interval(healthy: Sequence[float], attacked: Sequence[float]) -> tuple[float, float] | None:
    """95 % percentile interval of :func:`auroc`: healthy and attacked nets are drawn anew, each kind by itself.

    None with fewer than two nets of either kind, where it would say nothing. The same for the same scores.
    """
    if min(len(healthy), len(attacked)) < 2:
        return None
    stream = np.random.default_rng(0)
    h, a = np.asarray(healthy), np.asarray(attacked)
    drawn_h, drawn_a = (values[stream.integers(len(values), size=(DRAWS, len(values)))] for values in (h, a))
    above = drawn_a[:, :, None] - drawn_h[:, None, :]
    found = (above > 0).mean((1, 2)) + 0.5 * (above == 0).mean((1, 2))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def tpr_at(healthy: Sequence[float], attacked: Sequence[float], fpr: float = 0.05) -> float:
    """Largest share of attacked nets above a threshold that at most a share ``fpr`` of the healthy ones exceed.

    With fewer than 1 / ``fpr`` healthy nets that is the share above all of them.
    """
    allowed = int(fpr * len(healthy) + 1e-9)
    threshold = sorted(healthy, reverse=True)[allowed]
    return float(np.mean([score > threshold for score in attacked]))


def detection(verdicts: Iterable[VerdictRecord], gate: float) -> pd.DataFrame:
    """Figures of each detector; columns :data:`COLUMNS`. Nets whose ASR is below ``gate`` count neither way and are flagged."""
    groups: dict[tuple[Any, ...], list[VerdictRecord]] = {}
    for v in verdicts:
        groups.setdefault((v.dataset, v.net, v.clean_images, v.detector), []).append(v)
    rows = []
    for key in sorted(groups):
        group = sorted(groups[key], key=lambda v: (v.attack, v.seed, v.id))
        healthy = [v for v in group if v.attack == "clean" and v.status == "ok"]
        labels = sorted({v.attack for v in group if v.attack != "clean"})
        for label in [*labels, "all"]:
            asked = [v for v in group if v.attack == label or (label == "all" and v.attack != "clean")]
            rows.append(dict(zip(COLUMNS, (*key, label), strict=False)) | _row(healthy, asked, gate))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(healthy: Sequence[VerdictRecord], asked: Sequence[VerdictRecord], gate: float) -> dict[str, Any]:
    done = [v for v in asked if v.status == "ok"]
    attacked = [v for v in done if v.asr is None or v.asr >= gate]
    clean_scores = [v.score for v in healthy if v.score is not None]
    scores = [v.score for v in attacked if v.score is not None]
    both = bool(clean_scores and scores)
    bounds = interval(clean_scores, scores) if both else None
    hits = [v.suspected in v.targets for v in attacked if v.targets and v.suspected is not None]
    flags = []
    if len(done) < len(asked):
        flags.append(f"failed {len(asked) - len(done)} of {len(asked)} nets")
    if len(attacked) < len(done):
        flags.append(f"attack-failed {len(done) - len(attacked)} of {len(done)} nets")
    return {
        "clean_nets": len(healthy),
        "attacked_nets": len(attacked),
        "auroc": auroc(clean_scores, scores) if both else None,
        "auroc_low": bounds[0] if bounds else None,
        "auroc_high": bounds[1] if bounds else None,
        "tpr_at_5_fpr": 100 * tpr_at(clean_scores, scores) if both else None,
        "target_hit": _share(hits),
        "called_backdoored": _share([v.verdict for v in attacked if v.verdict is not None]),
        "called_backdoored_clean": _share([v.verdict for v in healthy if v.verdict is not None]),
        "seconds": float(np.mean([v.seconds for v in attacked])) if attacked else None,
        "flag": "; ".join(flags),
    }


def _share(values: Sequence[bool | None]) -> float | None:
    return 100 * sum(bool(value) for value in values) / len(values) if values else None


def to_csv(table: pd.DataFrame) -> str:
    """The csv text: two decimals, four for AUROC, empty where there is no value."""
    text = table.copy()
    for name in ("auroc", "auroc_low", "auroc_high"):
        text[name] = [None if pd.isna(value) else f"{value:.4f}" for value in table[name]]
    csv: str = text.to_csv(index=False, float_format="%.2f", lineterminator="\n")
    return csv


def detection_lines(table: pd.DataFrame) -> list[str]:
    """A table in Markdown, one line per detector over all attacked nets; nothing where no detector ran."""
    rows = table[table["attack"] == "all"].to_dict("records")
    if not rows:
        return []
    lines = [
        "## Detection",
        "",
        "| data, net | detector | clean nets | attacked nets | AUROC | TPR at 5 % FPR | target hit | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        area = "—" if pd.isna(row["auroc"]) else f"{row['auroc']:.2f}"
        if not pd.isna(row["auroc_low"]):
            area += f" [{row['auroc_low']:.2f}, {row['auroc_high']:.2f}]"
        shares = ["—" if pd.isna(row[k]) else f"{row[k]:.1f}" for k in ("tpr_at_5_fpr", "target_hit", "seconds")]
        where = f"{row['dataset']}, {row['net']}, {row['clean_images']} clean images"
        cells = [where, row["detector"], str(row["clean_nets"]), str(row["attacked_nets"]), area, *shares]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "Nets are victims before any defense; those whose attack failed are left out. AUROC with the 95 % interval of a",
        "bootstrap over nets (none with fewer than two nets of a kind). With fewer than 20 clean nets, TPR at 5 % FPR is the",
        "share of attacked nets that score above all clean ones. Target hit: the suspected class is the attacker's.",
        "",
    ]

"""``detection_summary.csv``: how well detectors tell attacked nets from healthy ones. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mnp_plugin.report.judged import split_of
from mnp_plugin.report.markdown import lines_of
from mnp_plugin.report.verdicts import VerdictRecord

COLUMNS = (
    "dataset", "net", "clean_images", "split", "detector", "attack", "clean_nets", "attacked_nets", "auroc", "auroc_low",
    "auroc_high", "tpr_at_5_fpr", "target_hit", "called_backdoored", "called_backdoored_clean", "calibrated_tpr",
    "calibrated_fpr", "seconds", "peak_mb", "flag",
)  # fmt: skip
"""Columns of ``detection_summary.csv``: one line per split and attack, and one, ``all``, over all attacked nets. AUROC in
[0, 1], seconds, MiB, else percent.

``auroc_low`` and ``auroc_high`` bound the 95 % interval of the bootstrap over nets. ``target_hit`` is the share of attacked nets
whose suspected class is a true target, over those with a target and a suspicion to compare. ``called_backdoored`` is what the
detector's own threshold says of attacked nets, ``..._clean`` of healthy ones. ``calibrated_tpr`` and ``calibrated_fpr`` are the
shares of attacked and healthy nets of the test above the threshold that at most 5 % of the healthy calibration nets exceed.
"""

ENOUGH = 20
"""Nets of each kind below which figures of detectors come with a caution."""

DRAWS = 2000
"""Draws of the bootstrap."""

NOTES = (
    "Nets are victims before any defense; those whose attack failed are left out. AUROC with the 95 % interval of a",
    "bootstrap over nets (none with fewer than two nets of a kind). With fewer than 20 clean nets, TPR at 5 % FPR is the",
    "share of attacked nets that score above all clean ones. Target hit: the suspected class is the attacker's.",
)
CALIBRATED = "Calibrated: shares above the threshold that at most 5 % of the clean nets of other seeds exceed."
"""What stands below a table of detectors, and where it has such columns."""


def auroc(healthy: Sequence[float], attacked: Sequence[float]) -> float:
    """Chance that an attacked net scores above a healthy one, ties counted half; both hold at least one score."""
    order = np.sort(np.asarray(healthy, dtype=float))
    below, upto = (np.searchsorted(order, np.asarray(attacked, dtype=float), side=side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(order)))


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


def threshold_at(healthy: Sequence[float], fpr: float = 0.05) -> float:
    """Lowest score that at most a share ``fpr`` of ``healthy`` exceed; with fewer than 1 / ``fpr`` of them, the highest."""
    return sorted(healthy, reverse=True)[int(fpr * len(healthy) + 1e-9)]


def tpr_at(healthy: Sequence[float], attacked: Sequence[float], fpr: float = 0.05) -> float:
    """Share of attacked nets above :func:`threshold_at`."""
    return _above(attacked, threshold_at(healthy, fpr))


def _above(scores: Sequence[float], threshold: float) -> float:
    return float(np.mean([score > threshold for score in scores]))


def detection(verdicts: Iterable[VerdictRecord], gate: float, calibration: Collection[int] = ()) -> pd.DataFrame:
    """Figures of each detector; columns :data:`COLUMNS`. Nets whose ASR is below ``gate`` count neither way and are flagged.

    Args:
        verdicts: of any nets.
        gate: least ASR.
        calibration: seeds of the nets of the calibration; all others are the test.
    """
    groups: dict[tuple[Any, ...], list[VerdictRecord]] = {}
    for v in verdicts:
        key = (v.dataset, v.net, v.clean_images, split_of(v, calibration), v.detector)
        groups.setdefault(key, []).append(v)
    rows = []
    for key in sorted(groups):
        group = sorted(groups[key], key=lambda v: (v.attack, v.seed, v.id))
        healthy = _healthy(group)
        limit = _scores(_healthy(groups.get((*key[:3], "calibration", key[4]), []))) if key[3] == "test" else []
        labels = sorted({v.attack for v in group if v.attack != "clean"})
        for label in [*labels, "all"]:
            asked = [v for v in group if v.attack == label or (label == "all" and v.attack != "clean")]
            rows.append(dict(zip(COLUMNS, (*key, label), strict=False)) | _row(healthy, asked, gate, limit))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _healthy(group: Sequence[VerdictRecord]) -> list[VerdictRecord]:
    return [v for v in group if v.attack == "clean" and v.status == "ok"]


def _scores(verdicts: Sequence[VerdictRecord]) -> list[float]:
    return [v.score for v in verdicts if v.score is not None]


def _row(
    healthy: Sequence[VerdictRecord], asked: Sequence[VerdictRecord], gate: float, calibration: Sequence[float]
) -> dict[str, Any]:
    done = [v for v in asked if v.status == "ok"]
    attacked = [v for v in done if v.asr is None or v.asr >= gate]
    clean_scores, scores = _scores(healthy), _scores(attacked)
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
        "calibrated_tpr": 100 * _above(scores, threshold_at(calibration)) if calibration and scores else None,
        "calibrated_fpr": 100 * _above(clean_scores, threshold_at(calibration)) if calibration and clean_scores else None,
        "seconds": float(np.mean([v.seconds for v in attacked])) if attacked else None,
        "peak_mb": max((v.peak_mb for v in done if v.peak_mb is not None), default=None),
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
    """Tables in Markdown, of the test: a line per detector over all attacked nets, and AUROC by attack; nothing without a
    detector.
    """
    head, rows = over_attacks(table)
    if not rows:
        return []
    few = [f"- {caution}" for caution in cautions(table)]
    lines = ["## Detection", "", *lines_of(head, rows), "", *few, *([""] if few else []), *NOTES]
    lines += [CALIBRATED, ""] if "FPR" in head else [""]
    head, rows = by_attack(table)
    return [*lines, *(["AUROC by attack (nets):", "", *lines_of(head, rows), ""] if rows else [])]


def over_attacks(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of detectors over all attacked nets of the test, the best AUROC first."""
    rows = table[(table["attack"] == "all") & (table["split"] == "test")].to_dict("records")
    calibrated = not table["calibrated_tpr"].isna().all()
    head = ["data, net", "detector", "clean nets", "attacked nets", "AUROC", "TPR at 5 % FPR", "target hit"]
    head += (["calibrated: TPR", "FPR"] if calibrated else []) + ["seconds", "MiB"]
    wanted = ["tpr_at_5_fpr", "target_hit", *(["calibrated_tpr", "calibrated_fpr"] if calibrated else []), "seconds"]
    found = []
    for row in sorted(rows, key=lambda row: (row["dataset"], row["net"], row["clean_images"], -_number(row["auroc"]))):
        shares = ["—" if pd.isna(row[k]) else f"{row[k]:.1f}" for k in wanted]
        memory = "—" if pd.isna(row["peak_mb"]) else f"{row['peak_mb']:.0f}"
        where = f"{row['dataset']}, {row['net']}, {row['clean_images']} clean images"
        found.append([where, row["detector"], str(row["clean_nets"]), str(row["attacked_nets"]), _area(row), *shares, memory])
    return head, found


def cautions(table: pd.DataFrame) -> list[str]:
    """What the nets of the test are too few for."""
    rows = table[(table["attack"] == "all") & (table["split"] == "test")]
    found = []
    for (dataset, net, images), part in rows.groupby(["dataset", "net", "clean_images"], sort=True):
        clean, attacked = int(part["clean_nets"].min()), int(part["attacked_nets"].min())
        where = f" ({dataset}, {net}, {images} clean images)" if len(part) < len(rows) else ""
        if min(clean, attacked) < ENOUGH:
            found.append(
                f"{clean} clean and {attacked} attacked nets{where}: one net more or less changes every figure, and an interval "
                "says too little where all nets agree."
            )
    return found


def _area(row: Mapping[Any, Any]) -> str:
    """AUROC with its interval, if there is one."""
    interval = "" if pd.isna(row["auroc_low"]) else f" [{row['auroc_low']:.2f}, {row['auroc_high']:.2f}]"
    return "—" if pd.isna(row["auroc"]) else f"{row['auroc']:.2f}{interval}"


def _number(value: Any) -> float:
    return -1.0 if pd.isna(value) else float(value)


def by_attack(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the AUROC of each detector on each attack, nets of the test; no row for a single attack."""
    test = table[(table["split"] == "test") & (table["attack"] != "all") & table["auroc"].notna()]
    attacks = list(dict.fromkeys(test["attack"]))
    counts = {attack: max(test[test["attack"] == attack]["attacked_nets"]) for attack in attacks}
    head, rows = ["nets", "detector", *(f"{attack} ({counts[attack]})" for attack in attacks)], []
    for key, group in test.groupby(["dataset", "net", "clean_images", "detector"], sort=True):
        by = {row["attack"]: _area(row) for row in group.to_dict("records")}
        rows.append([f"{key[0]}, {key[1]}", str(key[3]), *(by.get(attack, "—") for attack in attacks)])
    return head, rows if len(attacks) > 1 else []

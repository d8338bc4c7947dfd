"""``detection.csv``: what each detector said about each net. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pandas as pd

from mnp_plugin.report.verdicts import VerdictRecord

COLUMNS = (
    "net_id", "dataset", "net", "attack", "poison_ratio", "seed", "split", "detector", "score", "verdict", "target",
    "predicted_target", "seconds", "p_value", "flag",
)  # fmt: skip
"""Columns of ``detection.csv``: one line per net and detector.

``net_id`` is the fingerprint of the net. ``attack`` is ``clean`` for healthy nets. ``split`` is ``calibration`` or ``test``.
``verdict`` is empty where the detector has no threshold. ``target`` is empty for healthy nets and where it is every class.
``flag`` says why a net counts neither way: its attack failed, or the detector.
"""


def split_of(verdict: VerdictRecord, calibration: Collection[int]) -> str:
    """``calibration`` for nets of the seeds ``calibration``, else ``test``."""
    return "calibration" if verdict.seed in calibration else "test"


def judged(verdicts: Iterable[VerdictRecord], gate: float, calibration: Collection[int] = ()) -> pd.DataFrame:
    """One line per verdict, by net and detector; columns :data:`COLUMNS`."""
    rows = [_row(verdict, gate, calibration) for verdict in verdicts]
    rows.sort(key=lambda row: (row["dataset"], row["net"], row["attack"], row["seed"], row["detector"], row["net_id"]))
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def _row(v: VerdictRecord, gate: float, calibration: Collection[int]) -> dict[str, Any]:
    flag = ""
    if v.status != "ok":
        flag = "failed"
    elif v.asr is not None and v.asr < gate:
        flag = f"attack-failed: ASR {100 * v.asr:.1f}"
    return {
        "net_id": v.victim,
        "dataset": v.dataset,
        "net": v.net,
        "attack": v.attack,
        "poison_ratio": v.poison_ratio,
        "seed": v.seed,
        "split": split_of(v, calibration),
        "detector": v.detector,
        "score": _short(v.score),
        "verdict": None if v.verdict is None else int(v.verdict),
        "target": v.targets[0] if len(v.targets) == 1 else None,
        "predicted_target": v.suspected,
        "seconds": v.seconds,
        "p_value": _short(v.p_value),
        "flag": flag,
    }


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.6g}"


def to_csv(table: pd.DataFrame) -> str:
    """The csv text; empty where there is no value."""
    csv: str = table.to_csv(index=False, lineterminator="\n")
    return csv

"""What detectors said about single images: one JSON per victim and detector under ``results/<suite>/samples/``, and
``samples.csv``. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mnp_plugin.report.texts import Status, finite, fraction, parsed

SCHEMA = 1

COLUMNS = (
    "net_id", "dataset", "net", "attack", "poison_ratio", "seed", "questions", "detector", "positives", "negatives", "auroc",
    "tpr_at_5_fpr", "tpr", "fpr", "seconds", "peak_mb", "flag",
)  # fmt: skip
"""Columns of ``samples.csv``: one line per victim and detector of single images. AUROC in [0, 1], shares in percent.

``questions`` says which images were judged: ``inputs`` (clean and triggered test images) or the ``training set``. ``positives``
are triggered or poisoned, ``negatives`` clean. ``tpr`` and ``fpr`` are the shares that the detector flags by its own rule,
``tpr_at_5_fpr`` is the share of positives above the score that at most 5 % of the negatives exceed.
"""


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """One detector of single images on one victim."""

    id: str
    """Fingerprint of the screening; the file's name ends with it."""
    victim: str
    """Fingerprint of the net."""
    suite: str
    dataset: str
    net: str
    attack: str
    poison_ratio: float | None
    seed: int
    detector: str
    """Label of the detector in the suite."""
    questions: str
    """``inputs`` or ``training set``."""
    status: Status
    reason: str = ""
    """Why it failed, in one line; empty otherwise."""
    asr: float | None = None
    """ASR of the net, in [0, 1]."""
    positives: int = 0
    """Triggered or poisoned images among those judged."""
    negatives: int = 0
    """Clean images among them."""
    auroc: float | None = None
    """Chance that a positive scores above a negative; null where there are none of either."""
    tpr_at_5_fpr: float | None = None
    """Share of the positives above the score that at most 5 % of the negatives exceed."""
    tpr: float | None = None
    """Share of the positives that the detector flags."""
    fpr: float | None = None
    """Share of the negatives that it flags."""
    clean_images: int = 0
    """Size of the clean budget handed to the detector."""
    seconds: float | None = None
    """Wall time of the detector."""
    peak_mb: float | None = None
    """Peak memory in MiB while it ran: of the device on CUDA, resident memory of the process on a CPU."""
    report: dict[str, Any] = field(default_factory=dict)
    """The detector's own report."""
    spec: dict[str, Any] = field(default_factory=dict)
    """All that determines the screening, every hyper-parameter written out."""
    content: str = ""
    """Fingerprint of the images; empty where the settings say which they are."""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


def from_json(text: str, source: str) -> SampleRecord:
    """Read a record.

    Raises:
        UserError: not JSON, not a record of this schema, or a number that cannot be; names ``source``.
    """

    def build(plain: dict[str, Any]) -> SampleRecord:
        record = SampleRecord(**plain)
        for name in ("asr", "auroc", "tpr_at_5_fpr", "tpr", "fpr"):
            if (value := getattr(record, name)) is not None and not fraction(value):
                raise ValueError(f"{name} must be from 0 to 1, not {value!r}")
        if record.status == "ok" and not finite(record.seconds):
            raise ValueError(f"seconds must be a finite number, not {record.seconds!r}")
        return record

    return parsed(text, source, "a record of a screening", SCHEMA, build)


def sample_table(records: Iterable[SampleRecord], gate: float) -> pd.DataFrame:
    """One line per record; columns :data:`COLUMNS`. Those of attacks whose ASR is below ``gate`` are flagged."""
    rows = [_row(record, gate) for record in records]
    rows.sort(key=lambda row: tuple(row[k] for k in ("dataset", "net", "questions", "detector", "attack", "seed", "net_id")))
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def _row(record: SampleRecord, gate: float) -> dict[str, Any]:
    flag = ""
    if record.status != "ok":
        flag = "failed"
    elif record.asr is not None and record.asr < gate:
        flag = f"attack-failed: ASR {100 * record.asr:.1f}"
    own = {name: getattr(record, name) for name in COLUMNS if hasattr(record, name)}
    for name in ("tpr_at_5_fpr", "tpr", "fpr"):
        own[name] = None if own[name] is None else 100 * own[name]
    return own | {"net_id": record.victim, "flag": flag}


def to_csv(table: pd.DataFrame) -> str:
    """The csv text: two decimals, four for AUROC; empty where there is no value."""
    text = table.copy()
    for name, digits in {"auroc": 4, "tpr_at_5_fpr": 2, "tpr": 2, "fpr": 2}.items():
        text[name] = [None if pd.isna(value) else f"{value:.{digits}f}" for value in table[name]]
    csv: str = text.to_csv(index=False, lineterminator="\n")
    return csv


def sample_lines(table: pd.DataFrame) -> list[str]:
    """A table in Markdown for each kind of images: means of each detector over victims whose attack succeeded."""
    lines: list[str] = []
    for questions, title in (("inputs", "Triggered inputs"), ("training set", "Poisoned training images")):
        part = table[(table["questions"] == questions) & (table["flag"] == "")]
        if part.empty:
            continue
        names = ["data, net", "detector", "victims", "AUROC", "TPR at 5 % FPR", "TPR", "FPR", "FPR on clean sets", "seconds"]
        lines += [f"## {title}", "", f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
        rows = []
        for key, group in part.groupby(["dataset", "net", "detector"], sort=True):
            attacked, healthy = group[group["positives"] > 0], group[group["positives"] == 0]
            values = [(attacked["auroc"], 2), (attacked["tpr_at_5_fpr"], 1), (attacked["tpr"], 1), (attacked["fpr"], 1)]
            shown = [_mean(column, digits) for column, digits in [*values, (healthy["fpr"], 1), (group["seconds"], 1)]]
            rows.append((shown[0], f"| {key[0]}, {key[1]} | {key[2]} | {len(attacked)} | {' | '.join(shown)} |"))
        lines += [line for _, line in sorted(rows, key=lambda row: row[0], reverse=True)] + [""]
    if lines:
        lines += [
            "Means over victims whose attack succeeded. TPR and FPR are what the detector flags by its own rule. Triggered inputs:",
            "test images, as many clean ones. Poisoned training images: all that the victim was trained on; a clean set holds none.",
            "",
        ]
    return lines


def _mean(column: pd.Series, digits: int) -> str:
    values = [float(value) for value in column if not pd.isna(value)]
    return f"{sum(values) / len(values):.{digits}f}" if values else "—"

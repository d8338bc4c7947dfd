"""``samples.csv``: how well detectors of single images find what carries a trigger. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from mnp_plugin.report.markdown import lines_of
from mnp_plugin.report.samples import SampleRecord

COLUMNS = (
    "net_id", "dataset", "net", "attack", "poison_ratio", "seed", "questions", "detector", "positives", "negatives", "auroc",
    "tpr_at_5_fpr", "tpr", "fpr", "seconds", "peak_mb", "flag",
)  # fmt: skip
"""Columns of ``samples.csv``: one line per victim and detector of single images. AUROC in [0, 1], shares in percent.

``questions`` says which images were judged: ``inputs`` (clean and triggered test images) or the ``training set``. ``positives``
are triggered or poisoned, ``negatives`` clean. ``tpr`` and ``fpr`` are the shares that the detector flags by its own rule,
``tpr_at_5_fpr`` is the share of positives above the score that at most 5 % of the negatives exceed.
"""


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


QUESTIONS = {"inputs": "Triggered inputs", "training set": "Poisoned training images"}
"""What single images are asked about, and how tables are headed."""
HEAD = ("detector", "victims", "AUROC", "TPR at 5 % FPR", "TPR", "FPR", "FPR on clean sets (sets)", "seconds")
NOTES = (
    "Means over victims whose attack succeeded; ±: standard deviation over them, of all attacks and seeds; by attack and",
    "on clean sets, over seeds. TPR and FPR are what the detector flags by its own rule. Triggered inputs: test images,",
    "and as many clean ones. Poisoned training images: of all that the victim was trained on; a clean set holds none.",
)


def sample_lines(table: pd.DataFrame) -> list[str]:
    """Tables in Markdown for each kind of images: means of each detector over victims whose attack succeeded, and its AUROC by
    attack.
    """
    lines: list[str] = []
    for questions, title in QUESTIONS.items():
        if not (rows := over_victims(table, questions)):
            continue
        lines += [f"## {title}", "", *lines_of((title.lower(), *HEAD), rows)]
        part = table[(table["questions"] == questions) & (table["flag"] == "")]
        lines += ["", *_by_attack(part, title.lower())]
    return [*lines, *NOTES[:-1], f"{NOTES[-1]} By", "attack: AUROC, and how many victims.", ""] if lines else []


def over_victims(table: pd.DataFrame, questions: str) -> list[list[str]]:
    """Rows of the table of detectors: data set and net, then :data:`HEAD`; the best AUROC first."""
    part = table[(table["questions"] == questions) & (table["flag"] == "")]
    rows = []
    for key, group in part.groupby(["dataset", "net", "detector"], sort=True):
        attacked, healthy = group[group["positives"] > 0], group[group["positives"] == 0]
        values = [(attacked["auroc"], 2), (attacked["tpr_at_5_fpr"], 1), (attacked["tpr"], 1), (attacked["fpr"], 1)]
        shown = [_mean(column, digits) + _spread(column, digits) for column, digits in [*values, (healthy["fpr"], 1)]]
        shown[-1] += f" ({len(healthy)})" if len(healthy) else ""
        shown.append(_mean(group["seconds"], 1))
        rows.append((_mean(attacked["auroc"], 2), [f"{key[0]}, {key[1]}", str(key[2]), str(len(attacked)), *shown]))
    return [row for _, row in sorted(rows, key=lambda item: item[0], reverse=True)]


def _by_attack(part: pd.DataFrame, what: str) -> list[str]:
    """Mean AUROC of each detector on each attack; nothing for a single attack."""
    known = part[part["auroc"].notna()].astype({"auroc": float})
    each = known.groupby(["dataset", "net", "attack"], sort=False)["net_id"].nunique()
    victims = {attack: sorted({each[key] for key in each.index if key[2] == attack}) for attack in known["attack"].unique()}
    if len(victims) < 2:
        return []
    heads = [f"{attack} ({' to '.join(map(str, dict.fromkeys((of[0], of[-1]))))})" for attack, of in victims.items()]
    rows = []
    for key, group in known.groupby(["dataset", "net", "detector"], sort=True):
        areas = dict(iter(group.groupby("attack")["auroc"]))
        cells = [_mean(areas[attack], 2) + _spread(areas[attack], 2) if attack in areas else "—" for attack in victims]
        rows.append([f"{key[0]}, {key[1]}", str(key[2]), *cells])
    return [*lines_of([f"AUROC, {what}", "detector", *heads], rows), ""]


def _spread(column: pd.Series, digits: int) -> str:
    std = column.astype(float).std()
    return "" if pd.isna(std) else f" ± {std:.{digits}f}"


def _mean(column: pd.Series, digits: int) -> str:
    mean = column.astype(float).mean()
    return "—" if pd.isna(mean) else f"{mean:.{digits}f}"

"""Tables of detectors for ``leaderboard.tex``: what the Markdown shows of them, by booktabs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd

from mnp_plugin.report import detection, screened
from mnp_plugin.report.booktabs import escape, label_of, marked, tabular

MARKED = ("AUROC", "TPR at 5 % FPR", "target hit")
"""Columns whose best and second are marked; a rate at a detector's own threshold says nothing without the other."""


def nets_to_latex(found: pd.DataFrame, name: str) -> str:
    """Tables of detectors of nets, as :func:`~mnp_plugin.report.detection.detection` gives them: over all attacks, and AUROC by
    attack.
    """
    head, rows = detection.over_attacks(found)
    note = " ".join((*detection.NOTES, *([detection.CALIBRATED] if "FPR" in head else [])))
    lines = _by_place("Detectors of attacked nets", head, rows, MARKED, f"{name}-detectors", note)
    head, rows = detection.by_attack(found)
    note = "In brackets behind an attack: attacked nets; behind a figure: 95 % interval of a bootstrap over nets."
    return "\n".join([*lines, *_by_place("AUROC by attack", head, rows, head[2:], f"{name}-auroc", note)])


def samples_to_latex(table: pd.DataFrame, name: str) -> str:
    """Tables of detectors of single images, from what :func:`~mnp_plugin.report.screened.sample_table` gives."""
    lines: list[str] = []
    for questions, title in screened.QUESTIONS.items():
        rows, note = screened.over_victims(table, questions), " ".join(screened.NOTES)
        lines += _by_place(f"Detectors of {title.lower()}", ["", *screened.HEAD], rows, MARKED, f"{name}-{questions}", note)
    return "\n".join(lines)


def _by_place(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], best: Collection[str], label: str, note: str
) -> list[str]:
    """A table for each first cell of ``rows``, which its caption says instead."""
    lines: list[str] = []
    for place in dict.fromkeys(row[0] for row in rows):
        own = [row[1:] for row in rows if row[0] == place]
        columns = [_column([row[i] for row in own], title in best) for i, title in enumerate(head[1:])]
        where, body = f"{caption}: {place}", list(zip(*columns, strict=True))
        heads = [escape(title) for title in head[1:]]
        lines += ["", *tabular(heads, body, "l" + "r" * len(heads[1:]), where, label_of(label, place), note=escape(note))]
    return [*lines, ""] if lines else []


def _column(texts: Sequence[str], ranked: bool) -> list[str]:
    cells = []
    for text in texts:
        value, plus_minus, rest = text.partition(" ± ")
        spread = rf" {{\scriptsize $\pm$ {escape(rest)}}}" if plus_minus else ""
        cells.append("" if text == "—" else escape(value) + spread)
    return marked(cells, [ranked] * len(cells), more=True)

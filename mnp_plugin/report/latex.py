"""``leaderboard.tex``: tables for a paper, with booktabs; mean ± std over seeds or draws, best in bold and second underlined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mnp_plugin.report.after import PART, after_defense, meaning, trial_columns
from mnp_plugin.report.booktabs import escape, label_of, marked, tabular
from mnp_plugin.report.ranks import attack_label, may_be_best
from mnp_plugin.report.summary import SUMMARY, summarise, what_varies, what_varies_in_cells

SCORES = {"acc": ("ACC", True), "asr": ("ASR", False), "ra": ("RA", True), "der": ("DER", True)}
"""Scores that have a table of their own, their names, and whether more is better."""

DAGGER = r"$^\dagger$"
DDAGGER = r"$^\ddagger$"
GIVEN = rf"{DDAGGER} Was given more than clean images, and is not compared with the others."
FLAGGED = (
    rf"{DAGGER} The attack failed on some or all victims, or a run failed: without a defense these are all victims, with one "
    "those on which the attack took, if there are any; not in the mean."
)
"""What a flagged cell is; said in the caption of a table that has one."""


def to_latex(table: pd.DataFrame, name: str, runs: pd.DataFrame) -> str:
    """A table of defenses over attacks, one of attacks by defenses for each of ACC, ASR, RA and DER, and one of the trials.

    Args:
        table: a leaderboard.
        name: of the suite.
        runs: the single runs that it is made from.
    """
    lines = [
        f"% {escape(name)}: made by mnp-bench report; needs \\usepackage{{booktabs,graphicx}}",
        "% Percent. Means over attacks whose victim took; blind choices unless a name says oracle. Bold: best, underlined:",
        "% second, among defenses that are compared: no oracle, none that was given more than clean images, and of means none",
        "% that lacks an attack. No repair (none) is not marked.",
    ]
    trials = after_defense(table, runs)
    for (dataset, net, images), part in table.groupby(PART, sort=True):
        where = f"{dataset}, {net}, {images} clean images"
        label = label_of(name, dataset, net, images)
        summary = summarise(part, runs)
        if not summary.empty:
            lines += ["", *_summary(summary, where, label)]
        for score, (title, more) in SCORES.items():
            if part[score].notna().any():
                lines += ["", *_matrix(part, summary, score, f"{title} in percent: {where}", f"{label}-{score}", more)]
        if len(trials) and len(after := trials[(trials[PART] == [dataset, net, images]).all(axis=1)]):
            lines += ["", *_after(after, where, f"{label}-after")]
    return "\n".join([*lines, ""])


def _summary(summary: pd.DataFrame, where: str, label: str) -> list[str]:
    columns = [key for key in SUMMARY if not (key == "excess_asr" and summary[key].isna().all())]
    better: Mapping[str, bool] = {"acc": True, "ra": True, "der": True, "clean_delta_acc": True}
    rows = summary.to_dict("records")
    marks: dict[str, list[str]] = {}
    for key in columns:
        texts = [_cell(row, key) for row in rows]
        ranked = [may_be_best(row) and row["whole"] and key != "seconds" for row in rows]
        marks[key] = marked(texts, ranked, better.get(key, False))
    given = int(summary["knowledge"].ne("").any())
    body = [
        [
            escape(_named(row)),
            *[escape(row["knowledge"] or "clean images")] * given,
            str(row["attacks"]),
            *(marks[key][i] for key in columns),
        ]
        for i, row in enumerate(rows)
    ]
    heads = ["defense", *["knowledge"] * given, "attacks", *(escape(SUMMARY[key]) for key in columns)]
    caption, note = f"Defenses, means over attacks: {where}", escape(what_varies(summary))
    return tabular(heads, body, "l" * (1 + given) + "r" * (1 + len(columns)), caption, label, note=note)


def _matrix(part: pd.DataFrame, summary: pd.DataFrame, score: str, caption: str, label: str, more: bool) -> list[str]:
    columns = list(dict.fromkeys(zip(part["defense"], part["selection"], strict=True)))
    one = {(row["defense"], row["selection"]): row for row in part.to_dict("records")}
    found: dict[str, dict[tuple[str, str], dict[Any, Any]]] = {}
    for row in part.to_dict("records"):
        found.setdefault(attack_label(row), {})[row["defense"], row["selection"]] = row
    ranked = [may_be_best(one[column]) for column in columns]
    body, flagged = [], False
    for attack, rows in found.items():
        texts = [_cell(rows.get(column), score) for column in columns]
        if any(texts):
            flags = [bool(text and rows[column]["flag"]) for text, column in zip(texts, columns, strict=True)]
            flagged |= any(flags)
            cells = zip(marked(texts, ranked, more), flags, strict=True)
            body.append([escape(attack), *(text + DAGGER * flag for text, flag in cells)])
    took = part[(part["attack"] != "clean") & (part["flag"] == "") & part[score].notna()]
    labels = took.assign(label=[attack_label(row) for row in took.to_dict("records")])
    attacks = set(labels["label"])
    std = f"{score}_std"
    spreads: dict[Any, float | None] = {(row["defense"], row["selection"]): row[std] for row in summary.to_dict("records")}
    whole = {
        key: {score: own[score].mean(), std: spreads.get(key)}
        for key, own in labels.groupby(["defense", "selection"])
        if set(own["label"]) == attacks
    }
    most = len(attacks)
    last = ["mean", *marked([_cell(whole.get(column), score) for column in columns], ranked, more)]
    heads = ["attack", *(_head(one[column]) for column in columns)]
    notes = [escape(what_varies_in_cells(part, (score,))), f"Mean: over {most} attacks that took." * (most > 1)]
    if flagged:
        notes.append(FLAGGED)
    if any(one[column].get("knowledge") for column in columns):
        notes.append(GIVEN)
    return tabular(
        heads, body, "l" + "r" * len(columns), caption, label, last if most > 1 else None, " ".join(filter(None, notes))
    )


def _after(after: pd.DataFrame, where: str, label: str) -> list[str]:
    trials, rows = trial_columns(after), after.to_dict("records")
    most = after["attacks"].max()
    columns, ranked = ["asr", *trials], [may_be_best(row) and row["attacks"] == most for row in rows]
    scores = [marked([_cell(row, score) for row in rows], ranked, more=False) for score in columns]
    body = [[_head(row), str(row["attacks"]), *cells] for row, *cells in zip(rows, *scores, strict=True)]
    heads = ["defense", "attacks", "ASR", *(column.removeprefix("asr_") for column in trials)]
    given = GIVEN if after["knowledge"].ne("").any() else ""
    note = " ".join(filter(None, (escape(what_varies(after)), escape(meaning(trials)), given)))
    return tabular(heads, body, "lr" + "r" * len(columns), f"After the defense, means over attacks: {where}", label, note=note)


def _named(row: Mapping[Any, Any]) -> str:
    return f"{row['defense']} (oracle)" if row["selection"] == "oracle" else str(row["defense"])


def _head(row: Mapping[Any, Any]) -> str:
    return escape(_named(row)) + DDAGGER * bool(row.get("knowledge"))


def _number(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{round(value, 1) + 0.0:.1f}"


def _cell(row: dict[Any, Any] | None, score: str) -> str:
    if row is None:
        return ""
    text, std = _number(row[score]), _number(row.get(f"{score}_std"))
    return rf"{text} {{\scriptsize $\pm$ {std}}}" if text and std else text

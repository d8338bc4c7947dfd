"""What trials left of repaired nets: by run, by cell, and as means over attacks with their spread. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from statistics import stdev

import pandas as pd

from mnp_plugin.report.leaderboard import KEY, spread_cell
from mnp_plugin.report.markdown import lines_of
from mnp_plugin.report.ranks import attack_label
from mnp_plugin.report.summary import means_over_attacks, runs_by_defense, what_varies
from mnp_plugin.report.trials import NAMES, TrialRecord

MEANING = {
    "recalibrated": "BatchNorm statistics measured anew on the clean images",
    "finetuned": "tuned on the clean images for 5 epochs",
    "retuned5": "tuned on the clean images and 5 triggered ones of the attacker's label",
    "retuned50": "tuned on the clean images and 50 triggered ones of the attacker's label",
    "stronger": "the net as it stands, the trigger changing 1.5 times as much",
}
"""What was done in each trial before the ASR was measured again."""
PART = ["dataset", "net", "clean_images"]


def trial_columns(table: pd.DataFrame) -> list[str]:
    """The columns ``asr_<trial>`` that ``table`` has, in the order of the trials."""
    return [column for column in map("asr_{}".format, NAMES) if column in table]


def runs_after(runs: pd.DataFrame, trials: Sequence[TrialRecord]) -> pd.DataFrame:
    """Single runs with a column ``asr_<trial>`` for each trial, in percent; unchanged where there is no trial.

    Oracle rows have none: their net is not kept.
    """
    done = [trial for trial in trials if trial.status == "ok"]
    asr = {(t.cell, t.trial): 100 * t.after.asr for t in done if t.after is not None and t.after.asr is not None}
    nets = ["" if choice == "oracle" else cell for cell, choice in zip(runs["cell"], runs["selection"], strict=True)]
    names = [name for name in NAMES if any(trial.trial == name for trial in done)]
    return runs.assign(
        **{f"asr_{name}": pd.Series([asr.get((net, name)) for net in nets], runs.index, dtype=float) for name in names}
    )


def with_trials(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """A leaderboard with the columns of ``runs`` after trials, each with its ``*_std``; its means are over these runs."""
    columns = trial_columns(runs)
    if not columns:
        return table
    cells = runs.groupby([*KEY, "selection"], dropna=False)[columns]
    spreads = cells.std().add_suffix("_std")
    means = cells.mean().where(cells.count().eq(cells.size(), axis=0))  # of some of the runs it would not fit the ASR beside it
    found = pd.concat([means, spreads], axis=1)[[name for column in columns for name in (column, f"{column}_std")]]
    return table.merge(found.reset_index(), on=[*KEY, "selection"], how="left")


def after_defense(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """ASR of each defense as it stands and after each trial, means over attacks that took; empty where there is no trial.

    Scores have a ``*_std``, and ``varies``, ``n`` and ``several`` say of what, as in
    :func:`~mnp_plugin.report.summary.summarise`.

    Args:
        table: a leaderboard with the columns of its trials.
        runs: the single runs that it is made from, with theirs.
    """
    columns = trial_columns(table)
    used = table[(table["attack"] != "clean") & (table["flag"] == "") & (table["selection"] != "oracle")]
    tried = runs.loc[runs[columns].notna().any(axis=1), [*KEY, "selection"]].drop_duplicates()
    used = used.merge(tried, on=[*KEY, "selection"])
    rows = []
    for key, part in used.groupby(PART, sort=True):
        single = runs_by_defense(part, runs, ("asr", *columns))
        for (defense, selection), lines in part.groupby(["defense", "selection"], sort=True):
            own, attacks = single[str(defense), str(selection)], {attack_label(row) for row in lines.to_dict("records")}
            row = dict(zip(PART, key, strict=True)) | {"defense": defense, "selection": selection, "attacks": len(lines)}
            row["knowledge"] = lines["knowledge"].iloc[0] if "knowledge" in lines else ""
            row |= {"varies": None, "n": None, "several": bool((lines["seeds"] > 1).any() or (lines["draws"] > 1).any())}
            for score in ("asr", *columns):
                mean = float(lines[score].mean(skipna=False))  # over fewer attacks it would not fit the ASR beside it
                row |= {score: mean, f"{score}_std": None}
                if isnan(mean) or (seen := means_over_attacks(own, attacks, score)) is None:
                    continue
                if score == "asr":
                    row |= {"varies": seen.what, "n": len(seen.values)}
                if len(seen.values) == row["n"]:  # one n is said for a whole row
                    row[f"{score}_std"] = stdev(seen.values)
            rows.append(row)
    return pd.DataFrame(rows)


def meaning(columns: Sequence[str]) -> str:
    """What the trials of ``columns`` did, as sentences."""
    done = "; ".join(f"{name}: {MEANING[name]}" for name in (column.removeprefix("asr_") for column in columns))
    return f"ASR in percent. {done[0].upper()}{done[1:]}. A backdoor that comes back at once was asleep, not removed."


def after_lines(table: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """:func:`after_defense` as a table in Markdown; nothing without a trial."""
    found = after_defense(table, runs)
    if found.empty:
        return []
    columns = trial_columns(found)
    head = ["defense", "attacks", "ASR", *(column.removeprefix("asr_") for column in columns)]
    rows = []
    several = len(found[PART].drop_duplicates()) > 1
    for row in found.to_dict("records"):
        where = f" ({row['dataset']}, {row['net']}, {row['clean_images']} clean images)" * several
        cells = [spread_cell(row[score], row[f"{score}_std"]) for score in ("asr", *columns)]
        rows.append([f"{row['defense']}{where}", str(row["attacks"]), *cells])
    return [
        "## After the defense",
        "",
        *lines_of(head, rows),
        "",
        *([said, ""] if (said := what_varies(found)) else []),
        meaning(columns),
        "",
    ]

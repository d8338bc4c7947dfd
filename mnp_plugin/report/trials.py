"""What trials after the defense found: their records, and the columns they add to the table. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mnp_plugin.report.records import Record, Scores, scores_in
from mnp_plugin.report.texts import Status, parsed

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1

NAMES = ("recalibrated", "finetuned", "retuned5", "retuned50", "stronger")
"""Trials that tables know, in the order of their columns."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial on the repaired net of one cell.

    It is a record of its own beside the cell's: a trial asked for later rewrites nothing that was measured before, and one that
    fails leaves the cell as it is.
    """

    id: str
    """Fingerprint of the trial on this cell; the file's name ends with it."""
    cell: str
    """Fingerprint of the cell."""
    suite: str
    attack: str
    defense: str
    seed: int
    trial: str
    """One of :data:`NAMES`."""
    status: Status
    reason: str = ""
    """Why it failed, in one line; empty otherwise."""
    after: Scores | None = None
    """The net after the trial."""
    seconds: float | None = None
    """Wall time of the trial, without measuring."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings of the trial."""
    content: str = ""
    """Fingerprint of the images; empty where the settings say which they are, and in records of older versions."""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


def from_json(text: str, source: str) -> TrialRecord:
    """Read a record.

    Raises:
        UserError: not JSON, or not a record of this schema; names ``source``.
    """
    return parsed(
        text, source, "a record of a trial", SCHEMA, lambda plain: TrialRecord(**{**plain, "after": scores_in(plain, "after")})
    )


def with_trials(table: pd.DataFrame, records: Sequence[Record], trials: Sequence[TrialRecord]) -> pd.DataFrame:
    """``table`` with a column ``asr_<trial>`` for each trial: percent, mean over the seeds whose attack succeeded.

    Oracle rows have none: their net is not kept. Unchanged where there is no trial.
    """
    import pandas as pd  # not at the top: a plan knows trials and needs no table

    from mnp_plugin.report.leaderboard import KEY

    ran = {trial.trial for trial in trials}
    by_cell = {(trial.cell, trial.trial): trial.after for trial in trials}
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(getattr(record, key) for key in KEY), []).append(record)
    table = table.copy()
    for name in (name for name in NAMES if name in ran):
        values: list[float | None] = []
        for row in table.to_dict("records"):
            group = groups.get(tuple(None if pd.isna(row[key]) else row[key] for key in KEY), [])
            took = [record for record in group if record.took] or group
            asr = [s.asr for record in took if (s := by_cell.get((record.cell, name))) is not None and s.asr is not None]
            values.append(100 * sum(asr) / len(asr) if asr and row["selection"] != "oracle" else None)
        table[f"asr_{name}"] = pd.Series(values, index=table.index, dtype="float64")
    return table


def trial_lines(table: pd.DataFrame) -> list[str]:
    """A table in Markdown: ASR of each defense as it stands and after each trial, means over attacks that succeeded."""
    import pandas as pd

    columns = [name for name in table.columns if name.startswith("asr_") and name.removeprefix("asr_") in NAMES]
    part = table[(table["attack"] != "clean") & (table["flag"] == "") & (table["selection"] != "oracle")]
    part = part[part[columns].notna().any(axis=1)] if columns else part
    if not columns or part.empty:
        return []
    lines = [
        "## After the defense",
        "",
        f"| defense | attacks | ASR | {' | '.join(name.removeprefix('asr_') for name in columns)} |",
        "|---" * (3 + len(columns)) + "|",
    ]
    for (dataset, net, defense), rows in part.groupby(["dataset", "net", "defense"], sort=True):
        label = defense if part[["dataset", "net"]].drop_duplicates().shape[0] == 1 else f"{defense} ({dataset}, {net})"
        cells = ["—" if pd.isna(value) else f"{value:.1f}" for value in (rows[name].mean() for name in ["asr", *columns])]
        lines.append(f"| {label} | {len(rows)} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "ASR in percent after the repaired net had its BatchNorm statistics measured anew on the clean budget (recalibrated),",
        "was tuned on it for 5 epochs (finetuned), or likewise with 5 or 50 triggered images of the attacker's label (retuned).",
        *(["Stronger: the net as it stands, the trigger changing 1.5 times as much."] if "asr_stronger" in columns else []),
        "A backdoor that comes back at once was asleep, not removed.",
        "",
    ]

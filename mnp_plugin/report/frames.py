"""Records and leaderboards as pandas DataFrames, for notebooks and for everything here that looks at single runs.

>>> from mnp_plugin import load_records
>>> load_records("results/cifar10_cpu").groupby("defense")["asr"].mean()
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from mnp_plugin.report.after import runs_after, with_trials
from mnp_plugin.report.floors import Floors, floor_of
from mnp_plugin.report.leaderboard import leaderboard, with_numbers
from mnp_plugin.report.records import Record, Scores, der
from mnp_plugin.report.results import Results, read_results

RATES = ("acc", "asr", "ra", "der", "delta_acc", "excess_asr")
"""Scores of a run that are averaged, in percent or points."""

RUN_COLUMNS = (
    "dataset", "net", "attack", "poison_ratio", "clean_images", "defense", "selection", "seed", "draw", "status", "took",
    "acc", "asr", "ra", "der", "acc_before", "asr_before", "ra_before", "delta_acc", "asr_floor", "ra_floor", "excess_asr",
    "asr_8bit", "psnr", "ssim", "linf", "pruned", "neurons", "seconds", "peak_mb", "victim_seconds", "reason", "knowledge",
    "clean_source", "cell", "file",
)  # fmt: skip
"""Columns of :func:`runs`; rates in percent, as in ``leaderboard.csv``. ``pruned`` of ``neurons`` as the defense reports them."""


def runs(records: Sequence[Record], floors: Floors = MappingProxyType({}), files: Sequence[str] = ()) -> pd.DataFrame:
    """One row per record, and one more for its oracle choice; columns :data:`RUN_COLUMNS`, in the order of ``records``."""
    names = files or [""] * len(records)
    rows = []
    for record, name in zip(records, names, strict=True):
        floor = floor_of(floors, record)
        rows.append(_row(record, "none" if record.defense == "none" else "blind", record.after, floor, name))
        if record.oracle is not None:
            rows.append(_row(record, "oracle", record.oracle, floor, name))
    return with_numbers(pd.DataFrame(rows, columns=list(RUN_COLUMNS)))


def _row(record: Record, selection: str, found: Scores | None, floor: Scores | None, name: str) -> dict[str, Any]:
    before, stealth = record.before, record.stealth or {}
    rate = None if before is None or found is None else der(before, found)
    asr = None if found is None else found.asr
    pruned = record.oracle_setting or {} if selection == "oracle" else record.prune
    linf = stealth.get("linf")
    return {
        **{key: getattr(record, key, None) for key in RUN_COLUMNS},
        "selection": selection,
        **{key: _percent(getattr(found, key, None)) for key in ("acc", "asr", "ra")},
        **{f"{key}_before": _percent(getattr(before, key, None)) for key in ("acc", "asr", "ra")},
        "der": _percent(rate),
        "delta_acc": None if before is None or found is None else 100 * (found.acc - before.acc),
        "asr_floor": _percent(getattr(floor, "asr", None)),
        "ra_floor": _percent(getattr(floor, "ra", None)),
        "excess_asr": None if floor is None or floor.asr is None or asr is None else 100 * (asr - floor.asr),
        "asr_8bit": _percent(record.asr_8bit),
        "psnr": stealth.get("psnr"),
        "ssim": stealth.get("ssim"),
        "linf": None if linf is None else 255 * linf,
        "pruned": _number(pruned, "pruned"),
        "neurons": _number(record.prune, "of"),
        "file": name,
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _number(report: Mapping[str, Any], key: str) -> float | None:
    """A number of a defense's report, which may hold anything under that key."""
    value = report.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def counted(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`runs` that means are over: measured, and of a defense only those whose attack took.

    Where no attack of a cell took, all of its runs stay, as in the leaderboard, which flags them.
    """
    measured = table[table["acc"].notna()]
    cell = ["dataset", "net", "attack", "poison_ratio", "clean_images", "defense", "selection"]
    some = measured.groupby(cell, dropna=False)["took"].transform("any").astype(bool)
    return measured[measured["took"].astype(bool) | ~some | (measured["selection"] == "none")]


def load_records(folder: Path | str) -> pd.DataFrame:
    """Every record of a suite as a row, its oracle choice as one more.

    Args:
        folder: ``results/<suite>``.

    Returns:
        Columns :data:`RUN_COLUMNS`, rates in percent; ``asr_<trial>`` for each trial of the suite; and ``picture``: the path of
        the PNG that shows the trigger of the victim, empty where none was stored. Damaged records, and damaged files beside
        them, are left out with a warning that names them.

    Raises:
        UserError: no records there, or one that cannot be read.
    """
    own = _read(folder)
    table = runs_of(own)
    pictures = {name: own.beside.picture_of(record, name) for name, record in zip(own.files, own.records, strict=True)}
    for sentence in own.beside.damaged:
        warnings.warn(sentence, stacklevel=2)
    return table.assign(picture=[str(pictures[name] or "") for name in table["file"]])


def load_leaderboard(folder: Path | str) -> pd.DataFrame:
    """What ``leaderboard.csv`` holds, unrounded: one row per attack, defense and selection, means over seeds.

    Args:
        folder: ``results/<suite>``.

    Raises:
        UserError: as :func:`load_records`.
    """
    own = _read(folder)
    return table_of(own, runs_of(own))


def runs_of(own: Results) -> pd.DataFrame:
    """:func:`runs` of what was read, with the columns of its trials."""
    return runs_after(runs(own.records, own.floors, own.files), own.trials)


def table_of(own: Results, single: pd.DataFrame) -> pd.DataFrame:
    """The leaderboard of what was read, with the columns of its trials; ``single`` is its :func:`runs_of`."""
    return with_trials(leaderboard(own.records, own.floors), counted(single))


def _read(folder: Path | str) -> Results:
    own = read_results(Path(folder))
    for sentence in own.damaged:
        warnings.warn(sentence, stacklevel=3)
    return own

"""Curves along swept settings: what becomes of ASR and ACC as one number of a suite grows, all else being equal."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from mnp_plugin.report.leaderboard import SWEPT

BUDGET = ("images", "per_class", "percent")
"""Settings of the clean budget: along these the number of clean images differs."""

Row = Mapping[Any, Any]
Line = tuple[str, str, str]
"""Attack, defense and selection of a curve."""


@dataclass(frozen=True)
class Curve:
    """One line: by the value of the setting, ASR and ACC in percent (None where there is no such score)."""

    attack: str
    """Empty where the curve is the mean over attacks."""
    defense: str
    selection: str
    points: tuple[tuple[float, float | None, float | None], ...]


@dataclass(frozen=True)
class Sweep:
    """What differs in one setting alone."""

    setting: str
    of: str
    """The method, data set or net whose setting it is, by its label without it."""
    part: tuple[str, str, int] | None
    """Data set, net and clean images that its curves share; None where these differ along it."""
    curves: tuple[Curve, ...]


def sweeps(table: Iterable[Row]) -> list[Sweep]:
    """The sweeps of a leaderboard, by the rows of its table.

    An attack's has a curve for each defense, a defense's one for each attack. That of a data set, a net, a recipe or a clean
    budget has a curve for each defense: the mean over the attacks that took at all of its values and have every defense.
    """
    known: defaultdict[tuple[Any, ...], defaultdict[tuple[str, str, str], dict[float, Row]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in table:
        for column, setting, value, rest in _swept(row):
            line = {name: str(row[name]) for name in ("attack", "defense", "selection")}
            if column in ("attack", "defense"):
                part: tuple[Any, ...] | None = (row["dataset"], row["net"], row["clean_images"])
                of, line = rest, line | {column: rest}
            elif row["attack"] == "clean" or row["flag"]:
                continue
            else:
                part, labels = None, {"dataset": row["dataset"], "net": row["net"]} | {column: rest}
                images = () if setting.rpartition(".")[2] in BUDGET else (f"{row['clean_images']} clean images",)
                of = ", ".join((*labels.values(), *images))
            known[column, setting, of, part][line["attack"], line["defense"], line["selection"]][value] = row
    found = []
    for (column, setting, of, part), lines in known.items():
        curves = list(_lines(lines) if column in ("attack", "defense") else _means(lines))
        if curves:
            found.append(Sweep(setting, of, part, tuple(curves)))
    return found


def _swept(row: Row) -> Iterator[tuple[str, str, float, str]]:
    """(column, setting, value, label without the setting) for each number that the labels of a row say of a sweep."""
    for column in ("dataset", "net", "attack", "defense"):
        label = str(row[column])
        match = SWEPT.search(label)
        words = re.split(r"-(?=[a-z_.]+=)", match[1]) if match else []
        for word in words:
            setting, _, text = word.partition("=")
            try:
                value = float(text)
            except ValueError:
                continue
            if math.isfinite(value):  # a name, such as a mode, is no axis
                yield column, setting, value, label.replace(f"-{word}", "", 1)


def _lines(lines: Mapping[Line, Mapping[float, Row]]) -> Iterator[Curve]:
    for (attack, defense, selection), rows in lines.items():
        if len(rows) > 1:
            yield Curve(
                attack, defense, selection, tuple((x, _score(rows[x], "asr"), _score(rows[x], "acc")) for x in sorted(rows))
            )


def _means(lines: Mapping[Line, Mapping[float, Row]]) -> Iterator[Curve]:
    values = {value for rows in lines.values() for value in rows}
    whole: defaultdict[tuple[str, str], dict[str, Mapping[float, Row]]] = defaultdict(dict)
    for (attack, defense, selection), rows in lines.items():
        if len(rows) == len(values) > 1:
            whole[defense, selection][attack] = rows
    for (defense, selection), of in whole.items():
        each = [rows for attack, rows in of.items() if all(attack in others for others in whole.values())]
        if not each:
            continue
        points = tuple((x, _mean(each, x, "asr"), _mean(each, x, "acc")) for x in sorted(values))
        yield Curve("", defense, selection, points)


def _mean(each: Iterable[Mapping[float, Row]], value: float, score: str) -> float | None:
    found = [known for rows in each if (known := _score(rows[value], score)) is not None]
    return fmean(found) if found else None


def _score(row: Row, score: str) -> float | None:
    return None if pd.isna(row[score]) else float(row[score])

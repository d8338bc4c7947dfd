"""Figures of detectors: of nets, over all nets of the test, and of single images, over all victims whose attack took; each data
set, net and number of clean images by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import pandas as pd

from mnp_plugin.report.detection import auroc
from mnp_plugin.report.figures.style import WIDTH, blank
from mnp_plugin.report.roc import curve, mean_curve
from mnp_plugin.report.samples import SampleRecord
from mnp_plugin.report.shown import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Named = tuple[str, str]
"""A detector and where it was run, as :meth:`Shown.where` says."""


def by_detector(table: pd.DataFrame) -> list[tuple[Named, list[float], list[float], float]]:
    """(detector, scores of clean nets, of attacked ones, AUROC), highest AUROC first; only where there are both."""
    found = []
    for (name, where), group in table.groupby(["detector", "where"], sort=True):
        healthy, attacked = (group[group["attacked"] == kind]["score"].tolist() for kind in (False, True))
        if healthy and attacked:
            found.append(((str(name), str(where)), healthy, attacked, auroc(healthy, attacked)))
    return sorted(found, key=lambda item: (-item[3], item[0]))


def _title(named: Named) -> str:
    return ": ".join(filter(None, named))


def roc(shown: Shown) -> Figure | None:
    """The ROC curve of every detector: attacked nets found against clean ones accused."""
    found = by_detector(shown.judged)
    if not found:
        return None
    curves = [(name, *curve(healthy, attacked), area) for name, healthy, attacked, area in found]
    return _curves(shown, curves, "clean nets called backdoored", "attacked nets called backdoored")


def roc_inputs(shown: Shown) -> Figure | None:
    """The mean ROC curve of every detector of triggered inputs: triggered images flagged against clean ones."""
    return _of_images(shown, "inputs", "clean inputs flagged", "triggered inputs flagged")


def roc_training_set(shown: Shown) -> Figure | None:
    """The mean ROC curve of every detector of poisoned training images: poisoned images flagged against others."""
    return _of_images(shown, "training set", "other training images flagged", "poisoned training images flagged")


def _of_images(shown: Shown, questions: str, xlabel: str, ylabel: str) -> Figure | None:
    found: dict[Named, list[SampleRecord]] = {}
    for record in shown.own.samples:
        if record.questions == questions and record.roc and shown.took(record):
            found.setdefault((record.detector, shown.where(record)), []).append(record)
    if not found:
        return None
    curves = []
    for name, records in found.items():
        fpr, tpr = zip(*mean_curve([record.roc for record in records]), strict=True)
        curves.append((name, fpr, tpr, fmean(record.auroc or 0.0 for record in records)))
    return _curves(shown, sorted(curves, key=lambda item: (-item[3], item[0])), xlabel, ylabel)


def _curves(
    shown: Shown, found: Sequence[tuple[Named, Sequence[float], Sequence[float], float]], xlabel: str, ylabel: str
) -> Figure:
    """Curves (name, false positive rates, true positive rates, AUROC), in this order in the legend."""
    figure, (axes,) = blank(5.4, 3.4)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    for i, (name, fpr, tpr, area) in enumerate(found):
        look, every = shown.detector_looks[name[0]], (0.04 + 0.02 * (i % 6), 0.2)  # markers of curves that meet do not
        axes.plot(
            fpr,
            tpr,
            look.dash,
            color=look.colour,
            marker=look.marker,
            markersize=3.6,
            markevery=every,
            label=f"{_title(name)}  {area:.2f}",
        )
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    figure.legend(loc="outside right upper", title="AUROC", handlelength=3.2)
    return figure


def scores(shown: Shown) -> Figure | None:
    """Scores of clean and attacked nets, a strip per detector; each is scaled to its own range."""
    found = by_detector(shown.judged)
    if not found:
        return None
    figure, (axes,) = blank(WIDTH, 0.8 + 0.34 * len(found))
    for place, (_, healthy, attacked, _) in enumerate(found):
        low, high = min([*healthy, *attacked]), max([*healthy, *attacked])
        for values, colour, marker, shift, word in (
            (healthy, "#0072B2", "o", -0.16, "clean"),
            (attacked, "#D55E00", "^", 0.16, "attacked"),
        ):
            at = [(value - low) / (high - low or 1) for value in values]
            label = word if place == 0 else None
            axes.plot(
                at, [place + shift] * len(at), marker, color=colour, markersize=3.6, alpha=0.6, label=label, markeredgewidth=0
            )
    axes.set_yticks(range(len(found)), [f"{_title(name)} ({area:.2f})" for name, _, _, area in found])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="score, from the lowest to the highest of each detector (AUROC in brackets)", xlim=(-0.02, 1.02))
    figure.legend(loc="outside right upper")
    return figure

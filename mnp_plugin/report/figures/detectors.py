"""Figures of detectors, over all nets of the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mnp_plugin.report.detection import auroc
from mnp_plugin.report.figures.style import WIDTH, blank, looks
from mnp_plugin.report.roc import curve
from mnp_plugin.report.shown import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def by_detector(table: pd.DataFrame) -> list[tuple[str, list[float], list[float], float]]:
    """(detector, scores of clean nets, of attacked ones, AUROC), highest AUROC first; only where there are both."""
    found = []
    for name, group in table.groupby("detector", sort=True):
        healthy, attacked = (group[group["attacked"] == kind]["score"].tolist() for kind in (False, True))
        if healthy and attacked:
            found.append((str(name), healthy, attacked, auroc(healthy, attacked)))
    return sorted(found, key=lambda item: (-item[3], item[0]))


def roc(shown: Shown) -> Figure | None:
    """The ROC curve of every detector: attacked nets found against clean ones accused."""
    found = by_detector(shown.judged)
    if not found:
        return None
    figure, (axes,) = blank(5.4, 3.4)
    look = looks(name for name, *_ in found)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    for name, healthy, attacked, area in found:
        fpr, tpr = curve(healthy, attacked)
        axes.plot(fpr, tpr, look[name].dash, color=look[name].colour, label=f"{name}  {area:.2f}")
    axes.set(
        xlabel="clean nets called backdoored", ylabel="attacked nets called backdoored", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01)
    )
    figure.legend(loc="outside right upper", title="AUROC")
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
    axes.set_yticks(range(len(found)), [f"{name} ({area:.2f})" for name, _, _, area in found])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="score, from the lowest to the highest of each detector (AUROC in brackets)", xlim=(-0.02, 1.02))
    figure.legend(loc="outside right upper")
    return figure

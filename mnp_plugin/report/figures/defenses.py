"""Figures of defenses. Each takes what is shown and the part that it is about, and gives a figure, or None where there is nothing
to draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mnp_plugin.report.figures.style import WIDTH, blank, labelled
from mnp_plugin.report.ranks import attack_label
from mnp_plugin.report.shown import Shown
from mnp_plugin.report.statistics import Overall, Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LEGIBLE = 800
"""Most cells of a matrix whose numbers can be read; a larger one shows colours alone."""


def attacked(shown: Shown, which: Statistics) -> pd.DataFrame:
    """Rows of attacks that took; none where no defense was run."""
    part = shown.part(which)
    part = part if (part["selection"] != "none").any() else part.iloc[:0]
    return part[(part["attack"] != "clean") & (part["flag"] == "") & part["asr"].notna()]


def acc_asr(shown: Shown, which: Statistics) -> Figure | None:
    """ACC against ASR: a point per attack and defense, upper left is best; oracle choices are hollow."""
    rows = attacked(shown, which)
    if rows.empty:
        return None
    figure, (axes,) = blank(height=3.6)
    look = shown.looks
    for (name, selection), group in rows.groupby(["defense", "selection"], sort=True):
        one = look[str(name)]
        oracle = selection == "oracle"
        label = f"{name} (oracle)" if oracle else str(name)
        axes.scatter(
            group["asr"], group["acc"], s=22, marker=one.marker, label=label, linewidths=0.9, edgecolors=one.colour,
            facecolors="none" if oracle else one.colour, alpha=0.85,
        )  # fmt: skip
    axes.set(xlabel="ASR after the defense, %", ylabel="ACC after the defense, %", xlim=(-3, 103))
    figure.legend(loc="outside right upper")
    return figure


def pareto(shown: Shown, which: Statistics) -> Figure | None:
    """Mean DER against mean seconds, and the defenses that no other one beats in both."""
    blind = [item.row for item in which.overall if item.row["selection"] == "blind"]
    rows = [row for row in blind if pd.notna(row["seconds"]) and pd.notna(row["der"])]  # records from elsewhere have no seconds
    if len(rows) < 2:
        return None
    from matplotlib.ticker import NullFormatter

    figure, (axes,) = blank(height=3.2)
    look = shown.looks
    points = [(max(float(row["seconds"]), 0.05), float(row["der"]), str(row["defense"])) for row in rows]
    for x, y, name in points:
        axes.scatter(x, y, s=26, marker=look[name].marker, color=look[name].colour, zorder=3)
    best = front(points)
    axes.step([x for x, _ in best], [y for _, y in best], where="post", color="#888888", linewidth=0.9, linestyle="--")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.18, y=0.12)
    axes.set(xlabel="seconds of the defense, mean", ylabel="DER, mean over attacks, %")
    labelled(axes, points)
    return figure


def front(points: list[tuple[float, float, str]]) -> list[tuple[float, float]]:
    """The (seconds, DER) that no quicker point reaches, quickest first."""
    found: list[tuple[float, float]] = []
    for x, y, _ in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found


def matrix(shown: Shown, which: Statistics) -> Figure | None:
    """ASR of every attack under every defense, as a table of colours with the numbers in it."""
    rows = shown.part(which)
    rows = rows[(rows["attack"] != "clean") & rows["asr"].notna()]
    if rows.empty or (rows["selection"] == "none").all():
        return None
    columns = list(dict.fromkeys(zip(rows["defense"], rows["selection"], strict=True)))
    columns.sort(key=lambda c: (c[1] != "none", c[1] == "oracle", c[0]))
    lines = rows.to_dict("records")
    labels = list(dict.fromkeys(attack_label(row) for row in lines))
    values = np.full((len(labels), len(columns)), np.nan)
    flags = np.zeros_like(values, dtype=bool)
    for row in lines:
        at = labels.index(attack_label(row)), columns.index((row["defense"], row["selection"]))
        values[at], flags[at] = row["asr"], row["flag"] != ""
    width = min(14.0, max(3.6, 1.5 + 0.62 * len(columns)))
    figure, (axes,) = blank(width, min(20.0, 0.9 + 0.24 * len(labels)))
    mesh = axes.pcolormesh(values, cmap="YlGnBu", vmin=0, vmax=100, edgecolors="white", linewidth=0.8, rasterized=False)
    for (line, column), value in np.ndenumerate(values):
        if not np.isnan(value) and values.size <= LEGIBLE:
            text = f"{value:.1f}" + "*" * bool(flags[line, column])
            colour = "white" if value > 55 else "black"
            axes.text(column + 0.5, line + 0.5, text, ha="center", va="center", fontsize=6.5, color=colour)
    heads = [d if s != "oracle" else f"{d}\n(oracle)" for d, s in columns]
    axes.set_xticks(np.arange(len(columns)) + 0.5, heads, rotation=40 if len(columns) > 7 else 0)
    axes.set_yticks(np.arange(len(labels)) + 0.5, labels)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.xaxis.tick_top()
    bar = figure.colorbar(mesh, ax=axes, fraction=0.035, pad=0.02)
    bar.set_label("ASR, %" + (" (* attack failed or seeds missing)" if flags.any() else ""))
    bar.outline.set_visible(False)
    return figure


def summary(shown: Shown, which: Statistics) -> Figure | None:
    """Mean DER and ASR of every defense with intervals over attacks, and the worst attack of each."""
    items = [item for item in which.overall if item.row["selection"] != "none"]
    if not items:
        return None
    figure, axes = blank(height=0.8 + 0.26 * len(items), columns=2, sharey=True)
    _forest(axes[0], items, "der", "DER, %")
    _forest(axes[1], items, "asr", "ASR, %")
    names = [item.row["defense"] + (" (oracle)" if item.row["selection"] == "oracle" else "") for item in items]
    axes[0].set_yticks(range(len(items)), names)
    axes[0].invert_yaxis()
    note = "point: mean; bar: 95 % interval over attacks; cross: worst attack"
    figure.supxlabel(note, fontsize=6.5, color="#444444")
    return figure


def _forest(axes: Axes, items: list[Overall], score: str, title: str) -> None:
    colour = "#0072B2"
    for place, item in enumerate(items):
        mean, spread = item.row[score], item.spreads[score]
        oracle = item.row["selection"] == "oracle"
        if spread is not None:
            axes.plot([spread.low, spread.high], [place, place], color=colour, linewidth=2.2, alpha=0.45)
        axes.plot(mean, place, "o", color=colour, markersize=4.5, markerfacecolor="white" if oracle else colour)
        axes.plot(item.worst[score][0], place, "x", color="#D55E00", markersize=4)
    axes.set(xlabel=title, xlim=(-3, 103))
    axes.grid(visible=False, axis="y")


def oracle(shown: Shown, which: Statistics) -> Figure | None:
    """What choosing by test ASR would have changed: the blind choice joined to the oracle's, for every attack."""
    rows = attacked(shown, which).copy()
    names = sorted(rows[rows["selection"] == "oracle"]["defense"].unique())
    if not names:
        return None
    rows["label"] = [attack_label(row) for row in rows.to_dict("records")]
    labels = sorted(rows["label"].unique())
    figure, panels = blank(max(3.4, min(WIDTH, 3.4 * len(names))), 0.9 + 0.2 * len(labels), columns=len(names), sharey=True)
    for axes, name in zip(panels, names, strict=True):
        part = rows[rows["defense"] == name]
        blind, chosen = (part[part["selection"] == s].set_index("label")["asr"] for s in ("blind", "oracle"))
        for place, label in enumerate(labels):
            ends = [series.get(label) for series in (blind, chosen)]
            if None not in ends:
                axes.plot(ends, [place, place], color="#999999", linewidth=1)
        for series, marker, colour, word in ((blind, "o", "#0072B2", "blind"), (chosen, "D", "#D55E00", "oracle")):
            fill = colour if word == "blind" else "none"  # so that the blind one shows where both agree
            places = [labels.index(label) for label in series.index]
            axes.plot(
                series, places, marker, color=colour, markersize=4.5 if word == "blind" else 6.5, markerfacecolor=fill, label=word
            )
        axes.set(xlabel="ASR, %", title=name, xlim=(-3, 103))
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    panels[-1].legend(loc="best")
    return figure


def ranks(shown: Shown, which: Statistics) -> Figure | None:
    """The critical-difference diagram: mean ranks by DER; bars join defenses that are not told apart (Nemenyi, 5 %)."""
    found = which.ranking
    if found is None:
        return None
    names, values = list(found.ranks), list(found.ranks.values())
    k = len(names)
    half = (k + 1) // 2
    top = 0.55 + 0.16 * len(found.groups)
    height = 0.75 + 0.17 * len(found.groups) + 0.2 * half
    figure, (axes,) = blank(WIDTH, max(1.6, height))
    axes.set(xlim=(0.2 - 0.25 * k, k * 1.25 + 0.8), ylim=(-(top + 0.24 * half), 0.75))
    axes.axis("off")
    axes.plot([1, k], [0, 0], color="black", linewidth=0.9)
    for tick in range(1, k + 1):
        axes.plot([tick, tick], [0, 0.09], color="black", linewidth=0.7)
        axes.text(tick, 0.13, str(tick), ha="center", va="bottom", fontsize=7)
    axes.plot([1, 1 + found.difference], [0.5, 0.5], color="#D55E00", linewidth=1.6)
    axes.text(1 + found.difference / 2, 0.55, f"critical difference {found.difference:.2f}", ha="center", fontsize=6.5)
    for place, (name, rank) in enumerate(zip(names, values, strict=True)):
        left = place < half
        level = -(top + 0.24 * (place if left else k - 1 - place))
        end = 0.75 if left else k + 0.25
        axes.plot([rank, rank, end], [0, level, level], color="#777777", linewidth=0.7)
        axes.text(
            end + (-0.06 if left else 0.06), level, f"{name}  {rank:.2f}" if left else f"{rank:.2f}  {name}",
            ha="right" if left else "left", va="center", fontsize=7.5,
        )  # fmt: skip
    for level, (first, last) in enumerate(found.groups):
        y = -(0.22 + 0.16 * level)
        axes.plot([values[first] - 0.04, values[last] + 0.04], [y, y], color="#0072B2", linewidth=3, solid_capstyle="butt")
    return figure


def published(shown: Shown, which: Statistics) -> Figure | None:
    """Published figures against ours: a point per cell, on the line where they agree."""
    rows = shown.part(which, shown.beside)
    if rows.empty:
        return None
    figure, panels = blank(height=3.3, columns=2)
    look = shown.looks
    for axes, score in zip(panels, ("acc", "asr"), strict=True):
        for (name, selection), group in rows.groupby(["defense", "selection"], sort=True):
            one, hollow = look[str(name)], selection == "oracle"
            axes.scatter(
                group[f"{score}_published"], group[score], s=20, marker=one.marker, edgecolors=one.colour, linewidths=0.9,
                facecolors="none" if hollow else one.colour, label=f"{name} (oracle)" if hollow else name,
            )  # fmt: skip
        least = float(np.nanmin(rows[[score, f"{score}_published"]].to_numpy())) - 2
        axes.plot([least, 102], [least, 102], color="#999999", linewidth=0.8, zorder=0)
        on = ", ".join(sorted(set(rows["net_published"]) - {which.net}))
        where = f"published ({on})" if on else "published"
        axes.set(xlabel=f"{score.upper()} {where}, %", ylabel=f"{score.upper()} here, %", xlim=(least, 102), ylim=(least, 102))
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6)
    return figure

"""Figures of attacks: what each does to the nets that it is tried on, and what its trigger looks like."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pandas as pd

from mnp_plugin.report.figures.style import WIDTH, blank
from mnp_plugin.report.ranks import attack_label
from mnp_plugin.report.shown import Shown
from mnp_plugin.report.statistics import Statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TRIGGERS = 24
"""More attacks than these make a figure of triggers taller than a page."""


def attacks(shown: Shown, which: Statistics) -> Figure | None:
    """ASR and ACC of every attack without a defense, with standard deviations over seeds, beside the clean net's."""
    part = shown.part(which)
    rows = part[(part["selection"] == "none") & (part["attack"] != "clean") & part["asr"].notna()].to_dict("records")
    if not rows:
        return None
    figure, panels = blank(WIDTH, 0.95 + 0.2 * len(rows), columns=2, sharey=True)
    clean = part[(part["selection"] == "none") & (part["attack"] == "clean") & part["acc"].notna()]
    for axes, score, title in zip(panels, ("asr", "acc"), ("ASR, %", "ACC, %"), strict=True):
        for place, row in enumerate(rows):
            failed, std = bool(row["flag"]), row[f"{score}_std"]
            axes.errorbar(
                row[score], place, xerr=None if pd.isna(std) else std, fmt="o", color="#D55E00" if failed else "#0072B2",
                markersize=4.5, markerfacecolor="white" if failed else None, elinewidth=1.2, capsize=2,
            )  # fmt: skip
            if score == "asr" and pd.notna(row["asr_floor"]):
                axes.plot(row["asr_floor"], place, "|", color="#444444", markersize=7)
        axes.set(xlabel=title)
        axes.grid(visible=False, axis="y")
    if len(clean):
        panels[1].axvline(float(clean["acc"].mean()), color="#888888", linewidth=0.9, linestyle="--", zorder=0)
    panels[0].set_xlim(-3, 103)
    panels[0].set_yticks(range(len(rows)), [attack_label(row) for row in rows])
    panels[0].invert_yaxis()
    figure.supxlabel(_key(rows, bool(len(clean))), fontsize=6.5, color="#444444")
    return figure


def _key(rows: list[dict[Any, Any]], clean: bool) -> str:
    """What the signs in the figure of attacks are; of those alone that it has."""
    signs = {
        "point: mean": True,
        "bar: standard deviation over seeds": any(pd.notna(row["asr_std"]) for row in rows),
        "hollow: failed on some or all victims": any(row["flag"] for row in rows),
        "tick: ASR of a clean net": any(pd.notna(row["asr_floor"]) for row in rows),
        "dashed: ACC of the clean net": clean,
    }
    return "; ".join(text for text, there in signs.items() if there)


def triggers(shown: Shown, which: Statistics) -> Figure | None:
    """A strip of images per attack: clean, with its trigger, and their difference times ten; None where no pictures were kept."""
    strips: dict[str, bytes] = {}
    for record, file in zip(shown.own.records, shown.own.files, strict=True):
        label = attack_label(vars(record))
        if (record.dataset, record.net, record.clean_images) != (which.dataset, which.net, which.clean_images) or label in strips:
            continue
        details = shown.own.beside.details(record, file)
        picture = shown.own.beside.picture(details.picture) if details else None
        if picture is not None:
            strips[label] = picture
    if not strips or len(strips) > MOST_TRIGGERS:
        return None
    from matplotlib.image import imread

    pictures = {label: imread(io.BytesIO(content), format="png") for label, content in sorted(strips.items())}
    widest = max(picture.shape[1] / picture.shape[0] for picture in pictures.values())
    columns = 2 if len(pictures) > 1 else 1
    lines = -(-len(pictures) // columns)
    figure, panels = blank(WIDTH, 0.2 + lines * (WIDTH / columns / widest + 0.28), columns=columns, lines=lines)
    for axes in panels:
        axes.axis("off")
    for axes, (label, shades) in zip(panels, pictures.items(), strict=False):
        axes.imshow(shades, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(label)
    figure.supxlabel("rows: clean images, the same with the trigger, their difference times ten", fontsize=6.5, color="#444444")
    return figure

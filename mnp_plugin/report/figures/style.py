"""How all figures look, and how they are written."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.6
"""Inches: the text width of a two-column paper."""
SETTINGS: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "figure.dpi": 100,
    "text.parse_math": False,  # a dollar sign in a name begins no formula
    "svg.hashsalt": "mnp_plugin",
    "pdf.fonttype": 42,  # letters stay letters, which journals ask for
}


@contextmanager
def styled() -> Iterator[None]:
    """The context in which figures are drawn and written; the caller's own settings stay as they are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for name, value in SETTINGS.items():
            matplotlib.rcParams[name] = value  # type: ignore[index]
        yield


def blank(width: float = WIDTH, height: float = 3.2, columns: int = 1, lines: int = 1, **more: Any) -> tuple[Figure, list[Axes]]:
    """An empty figure (inches) with ``columns`` axes side by side in each of ``lines``; ``more`` goes to ``subplots``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, **more)
    return figure, list(axes.flat)


def written(figure: Figure, kind: str) -> bytes:
    """A figure as ``svg``, ``pdf`` or ``png``: no date, no version, so the same bytes again."""
    file = io.BytesIO()
    none: dict[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "png": {"Software": None},
    }
    figure.savefig(file, format=kind, metadata=none[kind], dpi=200)
    return file.getvalue()


def labelled(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write a label at the right of each (x, y) point, moved up where it would lie on another one."""
    axes.figure.canvas.draw()  # so that places on the page are known
    height, width = 10.0, 4.6  # of a line and of a letter, in pixels at 100 dpi
    taken: list[tuple[float, float, float]] = []
    for x, y, text in sorted(points, key=lambda point: (point[1], point[0], point[2])):
        at_x, at_y = axes.transData.transform((x, y))
        shift = 0.0
        for left, right, used in sorted(taken, key=lambda item: item[2]):
            if left < at_x + 6 + width * len(text) and right > at_x and abs(used - (at_y + shift)) < height:
                shift = used + height - at_y
        taken.append((at_x, at_x + 6 + width * len(text), at_y + shift))
        axes.annotate(
            text, (x, y), xytext=(5, shift * 0.72 - 2), textcoords="offset points", fontsize=6.5, zorder=2.5,
            bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )  # fmt: skip

"""The picture that explains magnitude-based pruning: every neuron's magnitude against its saliency, pruned ones marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnp_plugin.report.beside import Details
from mnp_plugin.report.figures.style import WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 1e-12


def standard(values: list[float], layers: list[list[object]], kept: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Robust z-scores of the logarithms within each layer: (v - median) / (1.4826 MAD), over the neurons of ``kept`` alone.

    Args:
        values: one per neuron, not negative.
        layers: (name, number of neurons) in their order.
        kept: which neurons count; the others are NaN. None for all.
    """
    logs = np.log(np.maximum(np.asarray(values, dtype=float), LEAST))
    found = np.full(len(logs), np.nan)
    at = 0
    for _, size in layers:
        part = np.arange(at, at + int(str(size)))
        at = part[-1] + 1 if len(part) else at
        if kept is not None:
            part = part[kept[part]]
        if len(part):
            middle = np.median(logs[part])
            width = 1.4826 * np.median(np.abs(logs[part] - middle))
            found[part] = (logs[part] - middle) / max(width, 1e-6)
    return found


def neurons(details: Details) -> Figure | None:
    """Before and after the defense, both in robust z-scores within the layer; None where no neurons are stored."""
    if not details.before:
        return None
    figure, panels = blank(WIDTH, 3.2, columns=2, sharex=True, sharey=True)
    gone = np.zeros(len(details.before["magnitude"]), dtype=bool)
    gone[details.pruned] = True
    for axes, title, values, kept in (
        (panels[0], "before", details.before, None),
        (panels[1], "after", details.after or details.before, ~gone),
    ):
        x, y = (np.clip(standard(values[name], details.layers, kept), -8, 8) for name in ("saliency", "magnitude"))
        axes.plot(x[~gone], y[~gone], "o", color="#56B4E9", markersize=2.6, alpha=0.55, markeredgewidth=0, label="kept")
        if kept is None:
            axes.plot(x[gone], y[gone], "X", color="#D55E00", markersize=4.4, markeredgewidth=0, label="pruned")
        axes.plot([-8, 8], [-8, 8], color="#aaaaaa", linewidth=0.8, zorder=0)
        axes.set(xlabel="saliency, z in the layer", title=title)
    panels[0].set_ylabel("magnitude, z in the layer")
    panels[0].legend(loc="lower right")
    return figure

"""All figures by name, drawn and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from mnp_plugin.core.errors import UserError, did_you_mean
from mnp_plugin.report.figures import attacks, defenses, detectors
from mnp_plugin.report.figures.neurons import neurons
from mnp_plugin.report.figures.style import styled, written
from mnp_plugin.report.shown import Shown
from mnp_plugin.report.statistics import Statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OF_PARTS: Mapping[str, Callable[[Shown, Statistics], Figure | None]] = {
    "attacks": attacks.attacks,
    "triggers": attacks.triggers,
    "summary": defenses.summary,
    "acc-asr": defenses.acc_asr,
    "matrix": defenses.matrix,
    "pareto": defenses.pareto,
    "ranks": defenses.ranks,
    "oracle": defenses.oracle,
    "published": defenses.published,
}
"""Figures of a data set, net and number of clean images."""
OF_DETECTORS: Mapping[str, Callable[[Shown], Figure | None]] = {
    "roc": detectors.roc,
    "scores": detectors.scores,
    "roc-inputs": detectors.roc_inputs,
    "roc-training-set": detectors.roc_training_set,
}
"""Figures of a whole suite."""
CELL = "neurons"
"""The figure of a single cell."""
NAMES = (*OF_PARTS, *OF_DETECTORS, CELL)

KINDS = ("svg", "pdf", "png")


def drawn(shown: Shown, kinds: tuple[str, ...], only: str | None = None) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of every figure that the suite has something for.

    Figures of a suite with several data sets, nets or numbers of clean images have a number behind the name.

    Args:
        shown: the suite.
        kinds: some of :data:`KINDS`.
        only: the name of one figure; None for all but that of a cell.
    """
    with styled():
        for name, draw in OF_PARTS.items():
            if only not in (None, name):
                continue
            for number, which in enumerate(shown.statistics, 1):
                suffix = f"-{number}" if len(shown.statistics) > 1 else ""
                yield from _files(f"{name}{suffix}", draw(shown, which), kinds)
        for name, of_all in OF_DETECTORS.items():
            if only in (None, name):
                yield from _files(name, of_all(shown), kinds)


def one(shown: Shown, name: str, kind: str, cell: str | None = None) -> dict[str, bytes]:
    """The figure ``name`` alone, by file name.

    Args:
        shown: the suite.
        name: one of :data:`NAMES`.
        kind: one of :data:`KINDS`.
        cell: for ``neurons``: its record file, or the beginning of its name, as ``badnets-mnp-s0``.

    Raises:
        UserError: no such figure, nothing to draw in it, or no such cell.
    """
    if name not in NAMES:
        raise UserError(f"no figure '{name}'.{did_you_mean(name, NAMES)}")
    if name == CELL:
        return _of_cell(shown, kind, cell)
    found = dict(drawn(shown, (kind,), only=name))
    if not found:
        raise UserError(f"suite '{shown.name}' has nothing to draw for the figure '{name}'")
    return found


def _of_cell(shown: Shown, kind: str, cell: str | None) -> dict[str, bytes]:
    stored = [
        (file, details)
        for record, file in zip(shown.own.records, shown.own.files, strict=True)
        if (cell is None or file.startswith(cell)) and (details := shown.own.beside.details(record, file)) and details.pruned
    ]
    if not stored:
        if shown.own.beside.damaged:
            raise UserError(shown.own.beside.damaged[0])
        which = f"cell '{cell}'" if cell else "any cell"
        raise UserError(f"no neurons are stored of {which} of suite '{shown.name}', or none was pruned; a run stores them")
    if len(stored) > 1 and cell is None:
        raise UserError(f"which cell? Give --cell, as {stored[0][0].rpartition('-')[0]}")
    with styled():
        file, details = stored[0]
        return dict(_files(f"{CELL}-{file.rpartition('-')[0]}", neurons(details), (kind,)))


def _files(name: str, figure: Figure | None, kinds: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    if figure is not None:
        for kind in kinds:
            yield f"{name}.{kind}", written(figure, kind)

"""What is kept of a cell for people to look at, beside its record: no number in a table comes from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mnp_plugin.benchmark.jobs.victim import MeasuredVictim
from mnp_plugin.contracts import ImageData, Triggered, concat
from mnp_plugin.data.split import Split
from mnp_plugin.evaluation.measure import Predictions
from mnp_plugin.evaluation.scores import confusion
from mnp_plugin.evaluation.sent import sent
from mnp_plugin.neurons.summary import looked_at, neuron_measures
from mnp_plugin.report.beside import MOST_CLASSES, Details

SHOWN = 8
"""Images of a picture of a trigger."""
FEW = 4
"""Images of a picture of a perturbation, which is the same on each."""


def cell_details(
    cell: str,
    data: ImageData,
    split: Split,
    victim: MeasuredVictim,
    model: nn.Module,
    before: Predictions,
    after: Predictions,
    picture: str,
    path: Mapping[str, Any],
    perturbation: Mapping[str, Any],
) -> Details:
    """The details of one cell.

    Args:
        cell: its fingerprint.
        data: of the victim.
        split: of the victim, on the device.
        victim: with its triggered test set.
        model: the repaired net.
        before: predictions of the victim.
        after: predictions of ``model``.
        picture: name of the PNG of the trigger; empty without one.
        path: ``points``, scores on the way of the defense, and ``images``, on how many they were measured.
        perturbation: as details hold it; empty where the defense found none.
    """
    classes, triggered = list(data.classes), victim.triggered
    matrices: dict[str, Any] = {}
    if len(classes) <= MOST_CLASSES:
        for suffix, found in (("", after), ("_before", before)):
            matrices[f"clean{suffix}"] = confusion(split.test.y, found.clean, len(classes))
            if triggered is not None and found.triggered is not None:
                matrices[f"triggered{suffix}"] = confusion(triggered.y_true, found.triggered, len(classes))
    return Details(
        id=cell,
        classes=classes,
        picture=picture,
        shown=_shown(triggered, before, after) if picture else [],
        perturbation=dict(perturbation),
        path=path.get("points", []),
        path_images=path.get("images", 0),
        **matrices,
        **neuron_measures(victim.once("neurons", lambda: looked_at(victim.victim.model, split.clean)), model, split.clean),
    )


def found_by_defense(delta: Tensor, split: Split, victim: nn.Module, model: nn.Module, picture: str) -> dict[str, Any]:
    """What details say of a perturbation that the defense found, float32 [1, C, H, W].

    Args:
        delta: on the device.
        split: of the victim, on the device.
        victim: before the repair.
        model: after it.
        picture: name of the PNG that shows it.
    """
    found = sent(delta, concat([split.clean, split.validation]), victim, model)
    if not found.images:  # a budget of one class
        return {}
    return {"picture": picture, "class": found.target, "images": found.images, "before": found.before, "after": found.after}


def _shown(triggered: Triggered | None, before: Predictions, after: Predictions) -> list[dict[str, int]]:
    if triggered is None or before.triggered is None or after.triggered is None:
        return []
    columns = {"true": triggered.y_true, "wanted": triggered.y_attack, "before": before.triggered, "after": after.triggered}
    lists = {name: values[:SHOWN].tolist() for name, values in columns.items()}
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]

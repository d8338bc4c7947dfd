"""What is kept of a cell for people to look at, beside its record: no number in a table comes from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mnp_plugin.benchmark.jobs.victim import MeasuredVictim
from mnp_plugin.contracts import ImageData, Images, Triggered
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.split import Split
from mnp_plugin.evaluation.measure import Predictions
from mnp_plugin.neurons.channels import Neurons
from mnp_plugin.report.beside import MOST_CLASSES, Details

SHOWN = 8
"""Images of a picture of a trigger."""


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
        path: ``points``, scores of the settings that the defense chose among, and ``images``, on how many they were measured.
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
        path=path.get("points", []),
        path_images=path.get("images", 0),
        **matrices,
        **_neurons(victim.victim.model, model, split.clean),
    )


def confusion(true: Tensor, predicted: Tensor, classes: int) -> list[list[int]]:
    """How many images of each class (rows) are predicted as each (columns); both int64 [N]."""
    found: list[list[int]] = torch.bincount(true * classes + predicted, minlength=classes**2).view(classes, classes).tolist()
    return found


def _shown(triggered: Triggered | None, before: Predictions, after: Predictions) -> list[dict[str, int]]:
    if triggered is None or before.triggered is None or after.triggered is None:
        return []
    columns = {"true": triggered.y_true, "wanted": triggered.y_attack, "before": before.triggered, "after": after.triggered}
    lists = {name: values[:SHOWN].tolist() for name, values in columns.items()}
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _neurons(before: nn.Module, after: nn.Module, clean: Images) -> dict[str, Any]:
    """Magnitude and saliency of every neuron of both nets, four digits; nothing for nets without neurons."""
    try:
        neurons = Neurons(before, clean[:1].pixels())
    except UserError:
        return {}

    def measured(model: nn.Module) -> dict[str, list[float]]:
        values = {"magnitude": neurons.magnitude(model), "saliency": neurons.saliency(model, clean)}
        return {name: [float(f"{value:.4g}") for value in vector.nan_to_num().tolist()] for name, vector in values.items()}

    had, has = neurons.weights(before, "weight"), neurons.weights(after, "weight")
    return {
        "layers": [[layer.name, layer.stop - layer.start] for layer in neurons.layers],
        "before": measured(before),
        "after": measured(after),
        "pruned": ((has == 0) & (had != 0)).nonzero().flatten().tolist(),
    }

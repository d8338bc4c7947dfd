"""Every neuron of a net before and after a repair, as a table, and what it says of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mnp_plugin.contracts import Images
from mnp_plugin.core.errors import UserError
from mnp_plugin.neurons.channels import Neurons

if TYPE_CHECKING:
    import pandas as pd


def neuron_table(before: nn.Module, after: nn.Module, images: Images, details: Mapping[str, Tensor] | None) -> pd.DataFrame:
    """One row per neuron, empty for a net without neurons.

    Args:
        before: the net as it was.
        after: the repaired one.
        images: clean images, on the device of the nets.
        details: what the defense knows of each neuron, by name; vectors of another length are left out.

    Returns:
        Columns ``layer`` (path of its module) and ``channel`` (number within it); ``magnitude`` (:meth:`Neurons.magnitude`) and
        ``saliency`` (first-order effect on the clean loss); the robust z-scores of their logarithms within the layer,
        ``magnitude_z`` and ``saliency_z`` (magnitude above saliency is the mark of a backdoor neuron that MNP looks for);
        ``pruned`` (1 if its scale, or all of its weights, became 0); then what else the defense knows.
    """
    import pandas as pd  # here: the plan of a suite passes by this module and needs no tables

    try:
        neurons = Neurons(before, images[:1].pixels())
    except UserError:
        return pd.DataFrame()
    magnitude, saliency = neurons.magnitude(before), neurons.saliency(before, images)
    pruned = (neurons.weights(after, "weight") == 0) & (neurons.weights(before, "weight") != 0)
    columns = {
        "magnitude": magnitude,
        "saliency": saliency,
        "magnitude_z": neurons.standardise(magnitude.clamp(min=1e-12).log()),
        "saliency_z": neurons.standardise(saliency.clamp(min=1e-12).log()),
        "pruned": pruned.int(),
    }
    columns |= {k: v for k, v in (details or {}).items() if k not in columns and v.shape == (neurons.count,)}
    places = [(layer.name, channel) for layer in neurons.layers for channel in range(layer.stop - layer.start)]
    table = pd.DataFrame(places, columns=["layer", "channel"])
    return table.assign(**{name: values.detach().cpu().numpy() for name, values in columns.items()})


def pruned_layers(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry per layer in which the table of :func:`neuron_table` has pruned neurons, JSON-ready.

    Returns:
        Mappings with ``layer``, ``pruned`` and ``of`` (numbers of neurons), ``channels`` (the numbers of the pruned ones within
        the layer), and over the pruned ones the medians of the z-scores: ``magnitude`` and ``saliency``.
    """
    if table.empty:
        return []
    found = []
    for layer, rows in table.groupby("layer", sort=False):
        gone = rows[rows["pruned"] == 1]
        if len(gone):
            found.append(
                {
                    "layer": str(layer),
                    "pruned": len(gone),
                    "of": len(rows),
                    "channels": gone["channel"].tolist(),
                    "magnitude": round(float(gone["magnitude_z"].median()), 3),
                    "saliency": round(float(gone["saliency_z"].median()), 3),
                }
            )
    return found


@dataclass(frozen=True, eq=False)
class Looked:
    """A net's neurons, and of each ``magnitude`` and ``saliency``, JSON-ready, four digits."""

    net: nn.Module
    neurons: Neurons
    values: dict[str, list[float]]


def looked_at(net: nn.Module, clean: Images) -> Looked | None:
    """Magnitude and saliency of every neuron, by the clean images; None for a net without neurons."""
    try:
        neurons = Neurons(net, clean[:1].pixels())
    except UserError:
        return None
    return Looked(net, neurons, _values(neurons, net, clean))


def _values(neurons: Neurons, net: nn.Module, clean: Images) -> dict[str, list[float]]:
    values = {"magnitude": neurons.magnitude(net), "saliency": neurons.saliency(net, clean)}
    return {name: [float(f"{value:.4g}") for value in vector.nan_to_num().tolist()] for name, vector in values.items()}


def neuron_measures(before: Looked | None, after: nn.Module, clean: Images) -> dict[str, Any]:
    """A net beside its repaired copy ``after``, JSON-ready; empty without neurons.

    Returns:
        ``layers``, (name, number of neurons) of each; ``before`` and ``after``, magnitude and saliency over all neurons by name;
        ``pruned``, the numbers of those whose scale, or all of whose weights, became 0.
    """
    if before is None:
        return {}
    neurons = before.neurons
    had, has = neurons.weights(before.net, "weight"), neurons.weights(after, "weight")
    return {
        "layers": [[layer.name, layer.stop - layer.start] for layer in neurons.layers],
        "before": before.values,
        "after": _values(neurons, after, clean),
        "pruned": ((has == 0) & (had != 0)).nonzero().flatten().tolist(),
    }

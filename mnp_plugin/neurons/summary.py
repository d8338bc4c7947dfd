"""What a repair pruned, layer by layer, and what these neurons were before: how large, and how little the clean loss needed."""

from __future__ import annotations

from typing import Any

from torch import nn

from mnp_plugin.contracts import Images
from mnp_plugin.core.errors import UserError
from mnp_plugin.neurons.channels import Neurons


def pruned_layers(before: nn.Module, after: nn.Module, images: Images) -> list[dict[str, Any]]:
    """One entry per layer in which ``after`` has silenced neurons, JSON-ready.

    Args:
        before: the net as it was.
        after: the repaired one.
        images: clean images, on the device of the nets.

    Returns:
        Mappings with ``layer`` (path of its module), ``pruned`` and ``of`` (numbers of neurons, pruned ones those whose scale,
        or all of whose weights, became 0), and over the pruned neurons the medians of two robust z-scores within the layer:
        ``magnitude`` (log of :meth:`Neurons.magnitude`) and ``saliency`` (log of the first-order effect on the clean loss).
        Magnitude above saliency is the mark of a backdoor neuron that MNP looks for. Empty for a net without neurons.
    """
    try:
        neurons = Neurons(before, images[:1].pixels())
    except UserError:
        return []
    magnitude = neurons.standardise(neurons.magnitude(before).clamp(min=1e-12).log())
    saliency = neurons.standardise(neurons.saliency(before, images).clamp(min=1e-12).log())
    silenced = (neurons.weights(after, "weight") == 0) & (neurons.weights(before, "weight") != 0)
    found = []
    for layer in neurons.layers:
        part = slice(layer.start, layer.stop)
        chosen = silenced[part]
        if chosen.any():
            found.append(
                {
                    "layer": layer.name,
                    "pruned": int(chosen.sum()),
                    "of": layer.stop - layer.start,
                    "channels": chosen.nonzero().flatten().tolist(),  # their numbers within the layer
                    "magnitude": round(float(magnitude[part][chosen].quantile(0.5)), 3),
                    "saliency": round(float(saliency[part][chosen].quantile(0.5)), 3),
                }
            )
    return found

"""Which channels stand out of their layer by their Lipschitz bound: what CLP prunes, and what Grond flattens against it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnp_plugin.neurons import channels as channel
from mnp_plugin.neurons.channels import Neurons


def lipschitz_excess(model: nn.Module, neurons: Neurons) -> Tensor:
    """Standard deviations by which each channel's bound exceeds its layer's mean, [neurons].

    The bound is |gamma| / sqrt(var + eps) * largest singular value of the filter, read as a matrix [inputs, k * k]; -inf where
    no convolution feeds the normalisation, or the layer has one channel only. Of nets with batch normalisation.
    """
    parts = []
    with torch.no_grad():
        for layer in neurons.layers:
            bn = model.get_submodule(layer.name)
            assert channel.is_batch_norm(bn)
            if layer.conv is None or bn.num_features < 2:
                parts.append(torch.full((bn.num_features,), -torch.inf, device=neurons.device))
                continue
            conv = model.get_submodule(layer.conv)
            assert isinstance(conv, nn.Conv2d)
            assert bn.running_var is not None
            steepest = torch.linalg.svdvals(conv.weight.float().flatten(2))[:, 0]
            bound = steepest * bn.weight.abs() / (bn.running_var + bn.eps).sqrt()
            parts.append((bound - bound.mean()) / bound.std().clamp(min=1e-12))
    return torch.cat(parts)

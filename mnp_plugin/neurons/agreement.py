"""How often two nets say the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnp_plugin.core.context import DefenseContext
from mnp_plugin.training.device import at_once
from mnp_plugin.training.passes import forward


def predictions(net: nn.Module, x: Tensor, tools: DefenseContext) -> Tensor:
    """The class that ``net`` gives each of the images ``x``, float32 [N, C, H, W] in [0, 1]; int64 [N]."""
    with torch.no_grad():
        return torch.cat([forward(net, part, tools).argmax(1) for part in x.split(at_once(x))])  # type: ignore[no-untyped-call]


def agreement(net: nn.Module, other: nn.Module, x: Tensor, tools: DefenseContext) -> float:
    """Share of the images ``x``, float32 [N, C, H, W] in [0, 1], that both nets give the same class."""
    return float((predictions(net, x, tools) == predictions(other, x, tools)).float().mean())

"""How often two nets say the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnp_plugin.core.context import DefenseContext
from mnp_plugin.training.passes import forward


def agreement(net: nn.Module, other: nn.Module, x: Tensor, tools: DefenseContext) -> float:
    """Share of the images ``x``, float32 [N, C, H, W] in [0, 1], that both nets give the same class."""
    with torch.no_grad():
        same = [
            forward(net, part, tools).argmax(1) == forward(other, part, tools).argmax(1)
            for part in x.split(250)  # type: ignore[no-untyped-call]
        ]
    return float(torch.cat(same).float().mean())

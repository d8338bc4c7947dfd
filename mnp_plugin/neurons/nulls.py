"""Copies of a net without random channels: what pruning does that knows nothing."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mnp_plugin.core.context import DefenseContext
from mnp_plugin.neurons.channels import Neurons, prune
from mnp_plugin.training.passes import forward


def agreement(net: nn.Module, other: nn.Module, x: Tensor, tools: DefenseContext) -> float:
    """Share of the images ``x``, float32 [N, C, H, W] in [0, 1], that both nets give the same class."""
    with torch.no_grad():
        same = [
            forward(net, part, tools).argmax(1) == forward(other, part, tools).argmax(1)
            for part in x.split(250)  # type: ignore[no-untyped-call]
        ]
    return float(torch.cat(same).float().mean())


def randomly_pruned(net: nn.Module, neurons: Neurons, count: int, tools: DefenseContext) -> nn.Module:
    """A copy of ``net`` in eval mode without ``count`` random neurons."""
    order = torch.randperm(neurons.count, generator=tools.generator, device=tools.device)
    other = copy.deepcopy(net)
    prune(other, neurons, order[:count], bias=True)
    return other.eval()


def random_depth(net: nn.Module, neurons: Neurons, x: Tensor, least: float, tools: DefenseContext, *, orders: int = 3) -> int:
    """How many random neurons may go until the mean agreement on ``x`` over ``orders`` draws falls below ``least``; at least 1.

    Found by bisection, so that it takes a dozen looks at most.
    """
    low, high = 1, max(2, neurons.count // 2)
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        shares = [agreement(net, randomly_pruned(net, neurons, middle, tools), x, tools) for _ in range(orders)]
        if sum(shares) / orders >= least:
            low = middle
        else:
            high = middle
    return low

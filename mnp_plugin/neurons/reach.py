"""How far each class reaches: the largest margin that any image in [0, 1] gives it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnp_plugin.core.context import DefenseContext
from mnp_plugin.training.passes import forward


def margins(out: Tensor, classes: int) -> Tensor:
    """z_c - max of the other logits, [K, n], for logits [K * n, K] of images class by class."""
    blocks = out.view(classes, -1, classes)
    own = torch.eye(classes, dtype=torch.bool, device=out.device)[:, None, :].expand_as(blocks)
    found: Tensor = blocks.masked_select(own).view(classes, -1) - blocks.masked_fill(own, -torch.inf).max(2).values
    return found


def farthest(net: nn.Module, start: Tensor, classes: int, tools: DefenseContext, *, steps: int = 30) -> Tensor:
    """Images [K * n, C, H, W] in [0, 1] on which falling sign steps drive the margin of their class up.

    The objective is MM-BD's (Wang et al., IEEE S&P 2024, arXiv 2205.06900), whose steps are plain gradients; signs need a tenth
    of them.

    Args:
        net: in eval mode, its parameters without gradients.
        start: images to start from, class by class, float32 [K * n, C, H, W] in [0, 1].
        classes: K.
        tools: device and precision.
        steps: ascent steps.
    """
    x = start
    for step in range(steps):
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(margins(forward(net, x, tools), classes).sum(), x)
        x = (x.detach() + 0.2 * (1 - step / steps) * slope.sign()).clamp(0, 1)
    return x.detach()

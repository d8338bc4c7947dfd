"""How far each class reaches: what it takes to drive clean images of other classes to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnp_plugin.core.context import DefenseContext
from mnp_plugin.core.images import Images
from mnp_plugin.training.passes import forward


def margins(out: Tensor, classes: int) -> Tensor:
    """z_c - max of the other logits, [K, n], for logits [K * n, K] of images class by class."""
    blocks = out.view(classes, -1, classes)
    own = torch.eye(classes, dtype=torch.bool, device=out.device)[:, None, :].expand_as(blocks)
    found: Tensor = blocks.masked_select(own).view(classes, -1) - blocks.masked_fill(own, -torch.inf).max(2).values
    return found


def of_others(images: Images, classes: int, count: int, tools: DefenseContext) -> Tensor:
    """``count`` random images of other classes for each class, class by class, float32 [K * count, C, H, W] in [0, 1].

    Images are drawn again where there are fewer. There are at least two classes among them.
    """
    parts = []
    for label in range(classes):
        rest = (images.y != label).nonzero().flatten()
        order = torch.randperm(len(rest), generator=tools.generator, device=tools.device)
        parts.append(images[rest[order.repeat(-(-count // len(rest)))[:count]]].pixels())
    return torch.cat(parts)


def climbed(net: nn.Module, start: Tensor, classes: int, tools: DefenseContext, *, steps: int = 40, size: float = 0.01) -> Tensor:
    """Images [K * n, C, H, W] in [0, 1], ``start`` after steps of ``size`` times the gradient of the margin of their class.

    Objective and steps are MM-BD's (Wang et al., IEEE S&P 2024, arXiv 2205.06900), which starts from noise and goes on to the
    end. Few steps from clean images tell more: every class can be reached in the end, the target of a backdoor at once.

    Args:
        net: in eval mode, its parameters without gradients.
        start: images to start from, class by class, float32 [K * n, C, H, W] in [0, 1].
        classes: K.
        tools: device and precision.
        steps: ascent steps.
        size: what the gradient is multiplied by.
    """
    x = start
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(margins(forward(net, x, tools), classes).sum(), x)
        x = (x.detach() + size * slope).clamp(0, 1)
    return x.detach()


def nudged(net: nn.Module, x: Tensor, target: Tensor, eps: float, tools: DefenseContext) -> Tensor:
    """Images [N, C, H, W] in [0, 1], each moved one step towards a class, int64 [N]: by ``eps`` along the sign of its gradient.

    The step starts from a random place within half of ``eps``, as in fast adversarial training (Wong et al., Fast is better
    than free, ICLR 2020, arXiv 2001.03994). Gradients that the parameters of ``net`` have stay as they are.
    """
    start = (torch.rand(x.shape, generator=tools.generator, device=x.device) - 0.5) * eps
    moved = (x + start).clamp(0, 1).requires_grad_(True)
    (slope,) = torch.autograd.grad(forward(net, moved, tools).log_softmax(1).gather(1, target[:, None]).sum(), moved)
    return (x + (start + eps * slope.sign()).clamp(-eps, eps)).clamp(0, 1)

"""The disagreement probe: one perturbation on which a net and its pruned copy differ most. No class is named."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.core.context import DefenseContext
from mnp_plugin.training.passes import forward


@dataclass(frozen=True, eq=False)
class Probe:
    """A universal perturbation and what it does.

    Args:
        delta: float32 [1, C, H, W], added to images in [0, 1], then clipped.
        target: the class that the net gives most of the perturbed images.
        rate: share of the perturbed images that the net gives that class.
        pruned_rate: share that the pruned net gives it.
    """

    delta: Tensor
    target: int
    rate: float
    pruned_rate: float

    def on(self, x: Tensor) -> Tensor:
        """``x``, float32 [N, C, H, W] in [0, 1], with the perturbation."""
        return (x + self.delta).clamp(0, 1)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) of two batches of logits [N, K], mean over the batch."""
    return F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), log_target=True, reduction="batchmean")


def find_probe(
    net: nn.Module,
    pruned: nn.Module,
    x: Tensor,
    tools: DefenseContext,
    *,
    eps: float = 16 / 255,
    steps: int = 15,
    through: bool = False,
) -> Probe:
    """Ascend KL(net(x + d) || pruned(x + d)) over one d for all images, by falling sign steps from a small random start.

    A perturbation on which a net and a copy without its backdoor disagree most rides on the backdoor; on a clean net it
    rides on nothing in particular. The idea is ours.

    Args:
        net: in eval mode, its parameters without gradients.
        pruned: likewise.
        x: clean images, float32 [N, C, H, W] in [0, 1].
        tools: device, random stream, precision.
        eps: largest change of a pixel.
        steps: ascent steps.
        through: let the gradient through to pixels that clipping holds at black or white; else they move only by chance.
    """
    delta = (2 * torch.rand(x[:1].shape, generator=tools.generator, device=tools.device) - 1) * eps / 10
    for step in range(steps):
        delta.requires_grad_(True)
        moved = (x + delta).clamp(0, 1)
        if through:
            moved = x + delta + (moved - x - delta).detach()
        (slope,) = torch.autograd.grad(divergence(forward(net, moved, tools), forward(pruned, moved, tools)), delta)
        delta = (delta.detach() + eps / 4 * (1 - step / steps) * slope.sign()).clamp(-eps, eps)
    with torch.no_grad():
        moved = (x + delta).clamp(0, 1)
        said, after = forward(net, moved, tools).argmax(1), forward(pruned, moved, tools).argmax(1)
    target = int(said.bincount().argmax())
    return Probe(delta, target, float((said == target).float().mean()), float((after == target).float().mean()))

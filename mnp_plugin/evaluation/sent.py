"""What a universal perturbation does to a net, before and after its repair."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mnp_plugin.core.images import Images
from mnp_plugin.evaluation.predict import logits


@dataclass(frozen=True)
class Sent:
    """Args:
    target: the class in question.
    images: clean images of other classes, on which it was measured.
    before: share of them, in [0, 1], that the perturbation sends to ``target`` in the victim.
    after: the same in the repaired net.
    """

    target: int
    images: int
    before: float
    after: float


def sent(delta: Tensor, images: Images, victim: nn.Module, repaired: nn.Module, target: int | None = None) -> Sent:
    """Share of clean images of other classes that ``delta`` sends to a class.

    Args:
        delta: float32 [1, C, H, W], added to images in [0, 1], then clipped.
        images: clean images, of more than one class.
        victim: before the repair.
        repaired: after it.
        target: the class; None takes that to which the victim gives most of the perturbed images.
    """
    x = (images.pixels() + delta.to(images.x.device)).clamp(0, 1)
    said = [logits(net, x).argmax(1) for net in (victim, repaired)]
    target = int(said[0].bincount().argmax()) if target is None else target
    others = images.y != target
    before, after = (round(float((each == target)[others].float().mean()), 4) for each in said)
    return Sent(target, int(others.sum()), before, after)

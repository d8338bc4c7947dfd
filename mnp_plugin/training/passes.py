"""What a method's own training loop is made of: batches as the recipe wants them, logits, cosine decay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import DefenseContext, Images, MethodError
from mnp_plugin.data.augment import random_crop_flip
from mnp_plugin.training.device import autocast, in_layout_of
from mnp_plugin.training.loop import batches


def one_pass(
    model: nn.Module, images: Images, size: int, tools: DefenseContext, *, augment: bool = True, rest: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of one pass over ``images``, of ``size`` or all there are; a ``rest`` is a smaller batch, or left out.

    Yields:
        x, float32 [N, C, H, W] in [0, 1], cropped and mirrored as the recipe says unless ``augment`` is off, in the memory
        layout of ``model``; y, int64 [N].
    """
    for index in batches(len(images), size, tools.generator, tools.device, rest=rest):
        part = images[index]
        x = part.pixels()
        if augment:
            x = random_crop_flip(x, tools.recipe.crop, tools.recipe.flip, tools.generator)
        yield in_layout_of(model, x), part.y


def forward(model: nn.Module, x: Tensor, tools: DefenseContext) -> Tensor:
    """Logits, float32 [N, K], computed in the recipe's precision, with gradients; ``x`` is float [N, C, H, W]."""
    with autocast(tools.recipe.precision, tools.device):
        out: Tensor = model(in_layout_of(model, x))
    return out.float()


def cosine(step: int, steps: int) -> float:
    """Factor of the learning rate at ``step`` of ``steps``: from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def finite(value: Tensor, what: str) -> float:
    """``value`` (scalar) as a number.

    Raises:
        MethodError: it is not finite.
    """
    number = float(value.detach())
    if not math.isfinite(number):
        raise MethodError(f"{what} diverged: the loss is not finite; try a smaller learning rate")
    return number


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, *, clip: float | None = None) -> None:
    """One step of ``optimiser`` down ``loss``, its gradient cut at a norm of ``clip``."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        nn.utils.clip_grad_norm_([weight for group in optimiser.param_groups for weight in group["params"]], clip)
    optimiser.step()


@contextmanager
def statistics_held(model: nn.Module) -> Iterator[None]:
    """Inside, batch normalisations in train mode use the statistics of the batch and leave the running ones as they are."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count

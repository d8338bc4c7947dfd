"""Clean unlearning: ascend the clean loss until the clean task is gone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenseContext, Images
from mnp_plugin.evaluation.predict import accuracy
from mnp_plugin.training.passes import descend, finite, forward, one_pass
from mnp_plugin.training.source_models import head_of


def ascend(
    model: nn.Module,
    images: Images,
    tools: DefenseContext,
    *,
    lr: float,
    factor: Callable[[int], float],
    weight_decay: float,
    epochs: int,
    batch_size: int,
    until: float,
    evaluate: bool = False,
    clip: float | None = None,
) -> list[float]:
    """Ascend cross entropy in place by SGD of momentum 0.9, train mode.

    Args:
        model: the net.
        images: clean images, augmented as the recipe says.
        tools: device, random stream, recipe.
        lr: learning rate.
        factor: epoch, from 0 -> factor of the learning rate.
        weight_decay: L2 penalty.
        epochs: largest number of passes.
        batch_size: images per step.
        until: accuracy of an epoch at or below which the ascent ends.
        evaluate: take the accuracy after the epoch, in eval mode, instead of the one seen while training.
        clip: largest norm of a gradient.

    Returns:
        The accuracy of each epoch.

    Raises:
        MethodError: the loss is not finite.
    """
    optimiser = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay)
    trace: list[float] = []
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            group["lr"] = lr * factor(epoch)
        model.train()
        right = seen = 0
        for x, y in one_pass(model, images, batch_size, tools):
            out = forward(model, x, tools)
            loss = -F.cross_entropy(out, y)
            descend(loss, optimiser, clip=clip)
            finite(loss, "unlearning")
            right, seen = right + int((out.argmax(1) == y).sum()), seen + len(y)
        trace.append(accuracy(model, images) if evaluate else right / seen)
        tools.busy("unlearning", epoch + 1, epochs)
        if trace[-1] <= until:
            break
    return trace


def head_change(
    model: nn.Module, images: Images, tools: DefenseContext, *, lr: float, epochs: int, batch_size: int, until: float
) -> tuple[Tensor, list[float]]:
    """By how much an ascent of a copy moves each row of the head, by L1 norm: ([classes], accuracy of each epoch).

    Gradients are cut at a norm of 20; after ten and after twenty epochs the learning rate falls to a tenth.

    Min, Pham, Sun, Unified Neural Backdoor Removal with Only Few Clean Samples, 2024, arXiv 2405.14781. Arguments as of
    :func:`ascend`.
    """
    unlearnt = copy.deepcopy(model)
    trace = ascend(
        unlearnt,
        images,
        tools,
        lr=lr,
        factor=lambda epoch: 0.1 ** min(epoch // 10, 2),
        weight_decay=5e-4,
        epochs=epochs,
        batch_size=batch_size,
        until=until,
        clip=20.0,
    )
    return (head_of(unlearnt).weight - head_of(model).weight).detach().abs().sum(1), trace

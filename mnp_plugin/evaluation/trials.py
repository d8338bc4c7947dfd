"""Trials after the defense: is the backdoor gone from the repaired net, or only asleep?

Each trial changes the repaired net a little, or shows it a stronger trigger, and measures it again. None is a defense, and none
changes what a cell measured.

Sources: that defenses leave backdoors dormant: Zhu et al., Breaking the False Sense of Security in Backdoor Defense through
Re-Activation Attack, NeurIPS 2024. That a few poisoned samples retune a repaired net back to its backdoor: Min et al.,
Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense, NeurIPS 2024, arXiv 2410.09838. The
settings below are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mnp_plugin.core.attack import Attack
from mnp_plugin.core.images import Images, State, Triggered, concat, to_bytes
from mnp_plugin.core.recipe import Recipe
from mnp_plugin.training.device import layout_of
from mnp_plugin.training.loop import fit

EPOCHS, LR, MOMENTUM, BATCH = 5, 0.01, 0.9, 128
"""Tuning of every trial that tunes: SGD (Nesterov) at a constant learning rate, without weight decay."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is done to a repaired net.

    Args:
        name: in suites and, as ``asr_<name>``, in tables.
        tunes: whether its weights are tuned; else the statistics of its BatchNorm layers alone are measured anew.
        triggered: how many triggered training images, labelled as the attacker wants, it is tuned with beside the budget.
        strength: factor of what the trigger changes in a test image; where it is not 1, the net stays as it is.
    """

    name: str
    tunes: bool = True
    triggered: int = 0
    strength: float = 1.0

    @property
    def wants_trigger(self) -> bool:
        """Whether it says nothing of a net that nobody attacked."""
        return self.triggered > 0 or self.strength != 1

    def plain(self) -> dict[str, Any]:
        """All that determines it, JSON-ready."""
        about: dict[str, Any] = {"name": self.name, "version": 1}
        if self.tunes:
            about |= {"epochs": EPOCHS, "lr": LR, "momentum": MOMENTUM, "batch_size": BATCH, "triggered": self.triggered}
        return about if self.strength == 1 else about | {"strength": self.strength}


TRIALS = {
    trial.name: trial
    for trial in (
        Trial(name="recalibrated", tunes=False),
        Trial(name="finetuned"),
        Trial(name="retuned5", triggered=5),
        Trial(name="retuned50", triggered=50),
        Trial(name="stronger", tunes=False, strength=1.5),
    )
}
"""Every trial by name."""


def recalibrate(model: nn.Module, budget: Images) -> None:
    """Measure the running statistics of all BatchNorm layers anew, as plain means over one pass of ``budget``; in place.

    Layers that keep none stay as they are; other layers (dropout) stay in eval mode.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    before = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
    layout = layout_of(model)
    with torch.no_grad():
        parts = max(len(budget) // BATCH, 1)
        for part in (budget.x[first::parts] for first in range(parts)):  # of all classes, if they come one after the other
            model((part.float() / 255).contiguous(memory_format=layout))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.eval()


def triggered_images(
    attack: Attack, state: State, train: Images, count: int, num_classes: int, generator: torch.Generator
) -> Images:
    """``count`` training images of classes that the attacker wants elsewhere, with the test trigger, at 8 bit, labelled so.

    Fewer where the training set holds fewer.
    """
    pool = attack.counted(train.y).nonzero().flatten()
    chosen = train[pool[torch.randperm(len(pool), generator=generator, device=pool.device)[:count]]]
    return Images(to_bytes(attack.stamp(chosen.pixels(), state)), attack.attack_labels(chosen.y, num_classes))


def strengthened(triggered: Triggered, test: Images, strength: float) -> Triggered:
    """Triggered images whose distance from the clean ones is ``strength`` times as large, clipped to [0, 1]: any attack's."""
    clean = test[triggered.index].pixels()
    return replace(triggered, x=(clean + strength * (triggered.x - clean)).clamp(0, 1))


def apply(
    trial: Trial, model: nn.Module, budget: Images, recipe: Recipe, generator: torch.Generator, trigger: Callable[[int], Images]
) -> None:
    """Do ``trial`` to ``model``, in place.

    Args:
        trial: what to do.
        model: the repaired net; takes float32 [N, C, H, W] in [0, 1].
        budget: the whole clean budget.
        recipe: of the benchmark; gives augmentation and precision.
        generator: random stream on the device of ``budget``.
        trigger: gives so many triggered training images; asked only where the trial needs some.

    Raises:
        MethodError: the tuning diverged.
    """
    if trial.strength != 1:
        return
    if not trial.tunes:
        recalibrate(model, budget)
        return
    images = concat([budget, trigger(trial.triggered)]) if trial.triggered else budget
    tuning = replace(recipe.for_tuning(epochs=EPOCHS, lr=LR, batch_size=BATCH), momentum=MOMENTUM, weight_decay=0.0, warmup=0.0)
    fit(model.requires_grad_(True), images, tuning, generator, schedule=lambda step, steps, recipe: 1.0)

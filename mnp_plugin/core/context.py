"""What a method is handed: device, random stream, recipe, and for a defender the model and the clean budget.

There are two contexts. Only that of an attack holds anything made from the training data, so that nothing leads from a defense
to the trigger is true by type. Of the views, only :class:`TrainingView` holds the training set; only a
:class:`~mnp_plugin.core.defense.TrainingSetDefense` is handed one, and tables say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mnp_plugin.core.errors import MethodError
from mnp_plugin.core.images import Images, State
from mnp_plugin.core.recipe import Recipe


@dataclass(frozen=True, eq=False, kw_only=True)
class DefenseContext:
    """What a defense or a detector works with. Holds no data: data travel as arguments.

    Args:
        device: where tensors live.
        generator: the method's own random stream, on ``device``.
        recipe: how this benchmark trains nets.
        fresh_net: builds an untrained net of the victim's kind.
        busy: called with (what runs, steps done, steps in all) now and then.
    """

    device: torch.device
    generator: torch.Generator
    recipe: Recipe
    fresh_net: Callable[[], nn.Module]
    busy: Callable[[str, int, int], None] = field(default=lambda what, done, total: None)


@dataclass(frozen=True, eq=False, kw_only=True)
class AttackContext(DefenseContext):
    """What an attack works with: also what its :meth:`Attack.requires` asked for, made before it starts.

    Args:
        clean: a net of the victim's kind trained on the same data without an attack, in eval mode; None if not required.
        assets: tensors by name, under the name of each required :class:`Asset`.
    """

    clean: nn.Module | None = None
    assets: Mapping[str, State] = field(default_factory=dict)

    def clean_net(self) -> nn.Module:
        """The clean net.

        Raises:
            MethodError: it was not required, or this is no benchmark.
        """
        if self.clean is None:
            raise MethodError("this method needs a net trained on clean data, which only an attack that requires it is given")
        return self.clean

    def asset(self, name: str) -> State:
        """The tensors of the required asset ``name``.

        Raises:
            MethodError: it was not required, or this is no benchmark.
        """
        if name not in self.assets:
            raise MethodError(f"this method needs a '{name}', which only an attack that requires it is given")
        return self.assets[name]


@dataclass(frozen=True, eq=False, kw_only=True)
class Asset:
    """Something an attack needs learned from the training set before it starts; made once for all victims that share it.

    Args:
        name: what it is, in words.
        settings: JSON-ready: with data, net, recipe and seed, all that determines it.
        make: (training set, context with a random stream of its own) -> tensors by name.
    """

    name: str
    settings: Mapping[str, Any]
    make: Callable[[Images, AttackContext], State]


@dataclass(frozen=True, eq=False, kw_only=True)
class Requires:
    """What an attack needs made before it starts: the benchmark's clean net, and assets."""

    clean_net: bool = False
    assets: tuple[Asset, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class DefenderView:
    """All that a defense may see. Nothing here leads to the trigger, to poisoned data or to a test set.

    Args:
        model: the net to repair; the defense owns this copy.
        clean: the part of the clean budget to work with.
        validation: the rest of the budget, for stopping and choosing; empty for a defense that does neither (``chooses``).
        num_classes: number of classes.
    """

    model: nn.Module
    clean: Images
    validation: Images
    num_classes: int


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingView(DefenderView):
    """What a defense of the training set may see: the images that the victim was trained on, too.

    Args:
        train: the poisoned training set, labels as the attacker left them; which images are poisoned is not said.
    """

    train: Images

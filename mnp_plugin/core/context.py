"""What a method is handed: device, random stream, recipe, and for a defender the model and the clean budget."""

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
class Tools:
    """Device tools for a method. Holds no data: data travel as arguments.

    Args:
        device: where tensors live.
        generator: the method's own random stream, on ``device``.
        recipe: how this benchmark trains nets.
        fresh_net: builds an untrained net of the victim's kind.
        clean_net: gives a net of the same kind trained on the same data without an attack, in eval mode: the source
            model of attacks that need one. A benchmark trains it once and keeps it; elsewhere there is none.
        asset: (name, settings, make) -> tensors by name; ``make`` is called with tools of its own, unless a benchmark
            has kept what it made from the same data, seed and settings.
        busy: told (what runs, steps done, steps in all) now and then.
    """

    device: torch.device
    generator: torch.Generator
    recipe: Recipe
    fresh_net: Callable[[], nn.Module]
    clean_net: Callable[[], nn.Module] = field(default=lambda: _no_clean_net())
    asset: Callable[[str, Mapping[str, Any], Callable[[Tools], State]], State] | None = None
    busy: Callable[[str, int, int], None] = field(default=lambda what, done, total: None)

    def made(self, name: str, settings: Mapping[str, Any], make: Callable[[Tools], State]) -> State:
        """What ``make`` gives, from the benchmark's cache where there is one."""
        return make(self) if self.asset is None else self.asset(name, settings, make)


def _no_clean_net() -> nn.Module:
    raise MethodError("this method needs a net trained on clean data, which only an attack in a benchmark is given")


@dataclass(frozen=True, eq=False, kw_only=True)
class DefenderView:
    """All that a defense may see. Nothing here leads to the trigger, to poisoned data or to a test set.

    Args:
        model: the net to repair; the defense owns this copy.
        clean: the part of the clean budget to work with.
        validation: the rest of the budget, for stopping and choosing.
        num_classes: number of classes.
        extras: what the defense declared in ``needs`` and was granted.
    """

    model: nn.Module
    clean: Images
    validation: Images
    num_classes: int
    extras: Mapping[str, Any] = field(default_factory=dict)

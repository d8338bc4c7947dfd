"""A repair of a trained net."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from mnp_plugin.core.component import Component
from mnp_plugin.core.context import DefenderView, DefenseContext
from mnp_plugin.core.errors import MethodError, UserError


@dataclass(frozen=True, eq=False, kw_only=True)
class Purified:
    """What a defense gives back.

    Args:
        model: plain net with the same ``state_dict`` keys as the victim's (masks baked in), at the blind choice.
        report: JSON-ready facts: what was pruned, where it stopped and why.
        candidates: lazily, every (setting, net) the defense chose among, from which the framework derives the separately
            named oracle row; None where there is no such choice.
        details: what the defense knows of each neuron, by name: vectors [neurons] in one order.
    """

    model: nn.Module
    report: Mapping[str, Any] = field(default_factory=dict)
    candidates: Callable[[], Iterator[tuple[Mapping[str, float], nn.Module]]] | None = None
    details: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Defense(Component):
    """A repair of a trained net. Override :meth:`purify`."""

    @abstractmethod
    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        """Repair ``view.model`` (the defense owns it) with the clean budget and choose the stopping point blind."""

    def objection(self, model: nn.Module) -> str | None:
        """Why this defense cannot treat nets like ``model``; None if it can. Asked before any training."""
        return None

    @final
    def run(self, view: DefenderView, tools: DefenseContext, around: AbstractContextManager[object] | None = None) -> Purified:
        """Purify a deep copy and check what comes back.

        Args:
            view: what the defense may see.
            tools: device, stream, recipe, fresh net.
            around: entered just before :meth:`purify` and left just after it, so that its cost alone is measured.

        Raises:
            MethodError: other ``state_dict`` keys or shapes, or weights that are not finite.
            UserError: the defense objects to this net.
        """
        reason = self.objection(view.model)
        if reason:
            raise UserError(f"defense '{self.name}' cannot treat this net: {reason}")
        own = replace(view, model=copy.deepcopy(view.model).requires_grad_(True).eval())
        with around or nullcontext():
            result = self.purify(own, tools)
        self._check(result.model, view.model)
        result.model.requires_grad_(True).eval()
        return result

    def _check(self, model: nn.Module, original: nn.Module) -> None:
        had, has = original.state_dict(), model.state_dict()
        if model is original:
            raise MethodError(f"defense '{self.name}' gave back the victim itself")
        if list(had) != list(has):
            odd = sorted(set(had) ^ set(has))[:3]
            raise MethodError(f"defense '{self.name}' changed the state_dict keys ({odd}): bake masks into the weights")
        for key, value in has.items():
            if value.shape != had[key].shape:
                raise MethodError(f"defense '{self.name}' changed the shape of {key}")
            if not torch.isfinite(value).all():
                raise MethodError(f"defense '{self.name}' diverged: {key} is not finite; try a smaller learning rate")

"""A repair of a trained net."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from mnp_plugin.core.context import DefenderView, DefenseContext, TrainingView
from mnp_plugin.core.errors import MethodError, UserError
from mnp_plugin.core.images import concat
from mnp_plugin.core.net_method import NetMethod


@dataclass(frozen=True, eq=False, kw_only=True)
class Purified:
    """What a defense gives back.

    Args:
        model: plain net with the same ``state_dict`` keys as the victim's (masks baked in), at the blind choice.
        report: JSON-ready facts: what was pruned, where it stopped and why.
        candidates: lazily, every (setting, net) the defense chose among, from which the framework derives the separately
            named oracle row; None where there is no such choice.
        path: lazily, (setting, net) on the way to ``model``, for people to look at and for nothing else; None where
            ``candidates`` are the way, or where there is none worth a picture.
        details: what the defense knows of each neuron, by name: vectors [neurons] in one order.
        perturbation: float32 [1, C, H, W]: what it found the victim to follow, to be added to images in [0, 1] and clipped; for
            people to look at. None where it searches no such thing.
    """

    model: nn.Module
    report: Mapping[str, Any] = field(default_factory=dict)
    candidates: Callable[[], Iterator[tuple[Mapping[str, float], nn.Module]]] | None = None
    path: Callable[[], Iterator[tuple[Mapping[str, float], nn.Module]]] | None = None
    details: Mapping[str, Tensor] | None = None
    perturbation: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Defense(NetMethod):
    """A repair of a trained net. Override :meth:`purify`."""

    knowledge: ClassVar[str] = ""
    """What it sees besides the model and its clean budget, as tables say it; empty: nothing."""
    chooses: ClassVar[bool] = True
    """Whether it makes a choice by ``view.validation``. Where it makes none, set this to False: then ``view.clean`` is the whole
    budget and ``view.validation`` is empty, so that no image goes unused."""

    @abstractmethod
    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        """Repair ``view.model`` (the defense owns it) with the clean budget and choose the stopping point blind."""

    @final
    def run(self, view: DefenderView, tools: DefenseContext, around: AbstractContextManager[object] | None = None) -> Purified:
        """Purify a deep copy and check what comes back.

        Args:
            view: what the defense may see.
            tools: device, stream, recipe, fresh net.
            around: entered just before :meth:`purify` and left just after it, so that its cost alone is measured.

        Raises:
            MethodError: other ``state_dict`` keys or shapes, weights that are not finite, or a perturbation of another shape.
            UserError: the defense objects to this net.
        """
        reason = self.refusal(view.model, view.num_classes)
        if reason:
            raise UserError(f"defense '{self.name}' cannot treat this net: {reason}")
        own = replace(view, model=copy.deepcopy(view.model).requires_grad_(True).eval())
        if not self.chooses:
            own = replace(own, clean=concat([view.clean, view.validation]), validation=view.validation[:0])
        with around or nullcontext():
            result = self.purify(own, tools)
        self._check(result.model, view.model)
        if result.perturbation is not None and result.perturbation.shape != view.clean.x[:1].shape:
            raise MethodError(
                f"defense '{self.name}' gave a perturbation of another shape than one image: {[*result.perturbation.shape]}"
            )
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


@dataclass(frozen=True, kw_only=True)
class TrainingSetDefense(Defense):
    """A defense that is given the poisoned training set beside model and clean budget. Override :meth:`treat`.

    Another defender than that of :class:`Defense`: whoever trains on data from elsewhere, instead of repairing a net from
    elsewhere. Where the attacker controls training there is no such set, and so no such cell.
    """

    knowledge = "training set"

    @abstractmethod
    def treat(self, view: TrainingView, tools: DefenseContext) -> Purified:
        """Repair ``view.model``, or train a net of ``tools.fresh_net()`` by ``tools.recipe``, knowing ``view.train``."""

    @final
    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        if not isinstance(view, TrainingView):
            raise UserError(training_set_wanted(self.name))
        return self.treat(view, tools)


def training_set_wanted(name: str) -> str:
    """What is wrong where a defense of the training set is given none."""
    return (
        f"defense '{name}' needs the poisoned training set, which it is given in a suite that trains its own victims "
        "(mnp-bench run); to repair a model from clean images take another, such as 'mnp'"
    )

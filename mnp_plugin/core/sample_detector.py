"""Detectors of single images: triggered ones among the inputs of a net, or poisoned ones in its training set."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from mnp_plugin.core.context import DefenderView, DefenseContext, TrainingView
from mnp_plugin.core.errors import MethodError, UserError
from mnp_plugin.core.images import Images
from mnp_plugin.core.net_method import NetMethod
from mnp_plugin.core.params import param

Questioned = Literal["inputs", "training set"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Screened:
    """What a detector says about each image.

    Args:
        scores: float [N], grows with the suspicion; finite.
        flagged: bool [N], the images that it would turn away.
        report: JSON-ready facts beyond these.
    """

    scores: Tensor
    flagged: Tensor
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SampleDetector(NetMethod):
    """Scores single images. Extend :class:`InputDetector` or :class:`TrainingSetDetector`."""

    questions: ClassVar[Questioned]
    """Which images it is made for."""

    @abstractmethod
    def screen(self, view: DefenderView, images: Images, tools: DefenseContext) -> Screened:
        """Judge ``images``; called by :meth:`run`, which checks the result."""

    @final
    def run(self, view: DefenderView, images: Images, tools: DefenseContext) -> Screened:
        """Screen ``images`` with a copy of the net, and check what comes back.

        Args:
            view: net and clean budget.
            images: those in question. Of inputs, labels are not looked at; of a training set, they are as the attacker left them.
            tools: device and random stream.

        Raises:
            MethodError: not one finite score and one flag for each image.
            UserError: the detector objects to this net.
        """
        reason = self.refusal(view.model, view.num_classes)
        if reason:
            raise UserError(f"detector '{self.name}' cannot work with this net: {reason}")
        found = self.screen(replace(view, model=copy.deepcopy(view.model).eval()), images, tools)
        shape = (len(images),)
        if found.scores.shape != shape or found.flagged.shape != shape or found.flagged.dtype != torch.bool:
            raise MethodError(f"detector '{self.name}' must give one score and one flag for each of {len(images)} images")
        if not bool(torch.isfinite(found.scores).all()):
            raise MethodError(f"detector '{self.name}' gave a score that is not finite")
        return found


@dataclass(frozen=True, kw_only=True)
class InputDetector(SampleDetector):
    """Scores inputs at test time, one by one. Override :meth:`scores`.

    An input is flagged that scores above all but a share ``fpr`` of the clean budget, in every method alike, so that they can be
    compared; where authors set a threshold otherwise, their docstring says so.
    """

    questions = "inputs"

    fpr: float = param(0.05, "share of the clean budget that is flagged", low=0, high=1)

    @abstractmethod
    def scores(self, view: DefenderView, x: Tensor, tools: DefenseContext) -> Tensor:
        """How triggered each of ``x``, float32 [N, C, H, W] in [0, 1], looks to ``view.model``, float [N]."""

    @final
    def screen(self, view: DefenderView, images: Images, tools: DefenseContext) -> Screened:
        found = self.scores(view, images.pixels(), tools)
        clean = torch.cat([self.scores(view, part.pixels(), tools) for part in (view.clean, view.validation) if len(part)])
        limit = clean.double().quantile(1 - self.fpr)
        return Screened(scores=found, flagged=found > limit, report={"threshold": round(float(limit), 6)})


@dataclass(frozen=True, kw_only=True)
class TrainingSetDetector(SampleDetector):
    """Scores the images of a training set that a net was trained on. Override :meth:`sift`."""

    questions = "training set"

    @abstractmethod
    def sift(self, view: TrainingView, tools: DefenseContext) -> Screened:
        """Judge the images ``view.train``, whose labels are as the attacker left them."""

    @final
    def screen(self, view: DefenderView, images: Images, tools: DefenseContext) -> Screened:
        own = {name: getattr(view, name) for name in ("model", "clean", "validation", "num_classes")}
        return self.sift(TrainingView(**own, train=images), tools)

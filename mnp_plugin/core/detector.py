"""A detector of backdoored nets."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from torch import Tensor

from mnp_plugin.core.component import Component
from mnp_plugin.core.context import DefenderView, DefenseContext
from mnp_plugin.core.errors import MethodError, UserError
from mnp_plugin.core.net_method import NetMethod


@dataclass(frozen=True, eq=False, kw_only=True)
class Verdict:
    """What a detector says about one net.

    Args:
        score: grows with the suspicion; finite.
        per_class: the evidence that each class is the attacker's target, one finite number per class, in the order of the
            net's outputs; empty where the detector does not look at classes.
        suspected: the class most likely to be the target; None where the detector names none.
        threshold: nets that score above it are called backdoored; None where nothing was calibrated.
        calibration: on what the threshold was set, and how far it can be trusted.
        p_value: chance of such a score on a healthy net by the detector's own null, in [0, 1]; None where it has none.
        perturbation: float32 [1, C, H, W]: what it found to lead to the suspected class, to be added to images in [0, 1] and
            clipped; None where the detector searches no such thing.
        report: JSON-ready facts beyond these.
    """

    score: float
    per_class: tuple[float, ...] = ()
    suspected: int | None = None
    threshold: float | None = None
    calibration: str = ""
    p_value: float | None = None
    perturbation: Tensor | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def backdoored(self) -> bool | None:
        """The decision; None without a threshold."""
        return None if self.threshold is None else self.score > self.threshold


@dataclass(frozen=True, kw_only=True)
class Detector(NetMethod):
    """Says how backdoored a whole net looks. Override :meth:`inspect`."""

    @abstractmethod
    def inspect(self, view: DefenderView, tools: DefenseContext) -> Verdict:
        """Judge ``view.model`` (the detector owns it) from the clean budget."""

    def runs(self) -> Sequence[Component]:
        """Registered methods that it runs, as it sets them: when one of them changes, so do the verdicts, and their identity."""
        return ()

    @final
    def run(self, view: DefenderView, tools: DefenseContext) -> Verdict:
        """Inspect a deep copy and check what comes back.

        Raises:
            MethodError: a score or an evidence that is not finite, or not one evidence per class.
            UserError: the detector objects to this net.
        """
        reason = self.refusal(view.model, view.num_classes)
        if reason:
            raise UserError(f"detector '{self.name}' cannot judge this net: {reason}")
        verdict = self.inspect(replace(view, model=copy.deepcopy(view.model).eval()), tools)
        if len(verdict.per_class) not in (0, view.num_classes):
            raise MethodError(f"detector '{self.name}' gave {len(verdict.per_class)} evidences for {view.num_classes} classes")
        if not all(math.isfinite(value) for value in (verdict.score, *verdict.per_class)):
            raise MethodError(f"detector '{self.name}' gave a score or an evidence that is not finite")
        if verdict.p_value is not None and not 0 <= verdict.p_value <= 1:
            raise MethodError(f"detector '{self.name}' gave a p-value of {verdict.p_value}")
        if verdict.suspected is not None and not 0 <= verdict.suspected < view.num_classes:
            raise MethodError(f"detector '{self.name}' suspects class {verdict.suspected} of {view.num_classes}")
        return verdict

"""The blind stopping rule that pruning defenses share: clean accuracy alone decides, never a trigger or a test set."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from mnp_plugin.contracts import DefenderView
from mnp_plugin.evaluation.predict import accuracy


def within(view: DefenderView, drop: float) -> Callable[[nn.Module], bool]:
    """A test that says whether a candidate is within ``drop`` points of ``view.model`` on both parts of the budget.

    Both, because the part that a method optimised on flatters it, and the validation part alone is often a few images.
    """
    parts = (view.clean, view.validation)
    floors = [accuracy(view.model, part) - drop / 100 for part in parts]

    def test(candidate: nn.Module) -> bool:
        return all(accuracy(candidate, part) >= floor - 1e-9 for part, floor in zip(parts, floors, strict=True))

    return test

"""The base of what works on a trained net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from mnp_plugin.core.component import Component


@dataclass(frozen=True, kw_only=True)
class NetMethod(Component):
    """A defense or a detector: it may be unfit for a net, which is found out before any work."""

    least_classes: ClassVar[int] = 2
    """Of the nets that it can work on."""

    def objection(self, model: nn.Module) -> str | None:
        """Why this method cannot work on nets like ``model``; None if it can."""
        return None

    @final
    def refusal(self, model: nn.Module, classes: int) -> str | None:
        """Its :meth:`objection`, or that ``classes`` are too few for it; None if there is neither."""
        if classes >= self.least_classes:
            return self.objection(model)
        return f"it compares classes with each other and needs {self.least_classes} or more, not {classes}"

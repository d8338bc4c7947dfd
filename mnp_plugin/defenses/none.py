"""No defense: the victim as it is, the row that every other is read against."""

from __future__ import annotations

from dataclasses import dataclass

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses


@defenses.register("none")
@dataclass(frozen=True, kw_only=True)
class NoDefense(Defense):
    """Gives the victim back unchanged."""

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        return Purified(model=view.model)

"""No attack: the clean model, which shows what a defense costs when there is no backdoor to remove."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mnp_plugin.contracts import Attack, State, attacks, param


@attacks.register("clean")
@dataclass(frozen=True, kw_only=True)
class Clean(Attack):
    """The unattacked model. It has no trigger, so ASR, RA and DER do not exist for it; ACC before and after do."""

    has_trigger = False

    poison_ratio: float = param(0.0, "nothing is poisoned", low=0, high=0)

    def apply(self, x: Tensor, state: State) -> Tensor:
        return x.clone()

"""A third party's attack: a bright corner."""

from dataclasses import dataclass

from torch import Tensor

from mnp_plugin.contracts import Attack, State, attacks, param


@attacks.register("corner")
@dataclass(frozen=True, kw_only=True)
class Corner(Attack):
    """Lights up the top-left corner."""

    size: int = param(3, "side of the corner in pixels", low=1)

    def apply(self, x: Tensor, state: State) -> Tensor:
        out = x.clone()
        out[..., : self.size, : self.size] = 1
        return out

"""BadNets: a small patch in a corner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnp_plugin.attacks.patterns import checkerboard, scaled
from mnp_plugin.contracts import Attack, State, attacks, param


@attacks.register("badnets")
@dataclass(frozen=True, kw_only=True)
class BadNets(Attack):
    """Overwrites a square in the bottom-right corner, all2one or all2all.

    ``grid`` is the black-and-white checkerboard of ANP, RNP and NAD (rows 0 0 1 / 0 1 0 / 1 0 1 at 3 pixels, 1 0 / 0 1 at
    2), ``white`` BackdoorBench's solid square. Other image sizes keep the patch's share of the side.

    BackdoorBench's own grid has five white pixels of nine (1 0 1 / 0 1 0 / 1 0 1).
    """

    paper = "Gu, Dolan-Gavitt, Garg, BadNets, 2017, arXiv 1708.06733"

    pattern: Literal["grid", "white"] = param("grid", "look of the patch")
    size: int | None = param(None, "side of the patch in pixels; null: 3 at 32 pixels, in proportion", low=1)

    def apply(self, x: Tensor, state: State) -> Tensor:
        side = min(self.size or scaled(3, x.shape[-1]), *x.shape[-2:])
        patch = torch.ones(side, side) if self.pattern == "white" else checkerboard(side)
        out = x.clone()
        out[..., -side:, -side:] = patch.to(x)
        return out

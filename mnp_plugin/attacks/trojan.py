"""Trojan patch: a small square of random colours inside the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnp_plugin.attacks.patterns import scaled
from mnp_plugin.contracts import Attack, DefenseContext, Images, State, attacks


@attacks.register("trojan")
@dataclass(frozen=True, kw_only=True)
class Trojan(Attack):
    """Overwrites a 3x3 square (at 32 pixels, rows and columns 25..27) with seeded random colours.

    Stands in for RNP's and NAD's ``trojanTrigger`` file. Deviations: the colours are drawn from the seed, and they
    replace the pixels, where the original adds them and wraps modulo 256. TrojanNN proper optimises its pattern on a net.
    """

    paper = "Liu et al., Trojaning Attack on Neural Networks, NDSS 2018 (patch variant of RNP, arXiv 2305.14876)"

    def prepare(self, train: Images, tools: DefenseContext) -> State:
        c, side = train.x.shape[1], scaled(3, train.x.shape[-1])
        cells = torch.randint(0, 256, (c, 3, 3), generator=tools.generator, device=tools.device, dtype=torch.uint8)
        index = torch.arange(side, device=tools.device) * 3 // side
        return {"patch": cells[:, index][:, :, index].float() / 255}

    def apply(self, x: Tensor, state: State) -> Tensor:
        patch = state["patch"].to(x)
        side = patch.shape[-1]
        top, left = (round(25 * length / 32) for length in x.shape[-2:])
        out = x.clone()
        out[..., top : top + side, left : left + side] = patch
        return out

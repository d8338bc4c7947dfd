"""Blended: a noise image mixed into the whole image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mnp_plugin.attacks.patterns import noise_image
from mnp_plugin.contracts import Attack, DefenseContext, Images, State, attacks, param


@attacks.register("blended")
@dataclass(frozen=True, kw_only=True)
class Blended(Attack):
    """x' = (1 - alpha) x + alpha p with one seeded, uniform 8-bit noise image p.

    ANP's recipe ships such an image (its file says gaussian; its histogram is flat); BackdoorBench blends a photograph.
    Images above 56 pixels get noise drawn at a coarser grid and enlarged bilinearly, else random crops average it away.
    """

    paper = "Chen et al., Targeted Backdoor Attacks Using Data Poisoning, 2017, arXiv 1712.05526"

    alpha: float = param(0.2, "weight of the noise image", above=0, high=1)

    def prepare(self, train: Images, tools: DefenseContext) -> State:
        return {"pattern": noise_image(train, tools)}

    def apply(self, x: Tensor, state: State) -> Tensor:
        return (1 - self.alpha) * x + self.alpha * state["pattern"].to(x)

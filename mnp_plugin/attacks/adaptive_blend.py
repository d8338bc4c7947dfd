"""Adaptive-Blend: half of a noise image in training, all of it at test time, and cover images that keep their label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnp_plugin.attacks.patterns import noise_image
from mnp_plugin.contracts import Attack, DefenseContext, Images, State, attacks, param


@attacks.register("adaptive_blend")
@dataclass(frozen=True, kw_only=True)
class AdaptiveBlend(Attack):
    """x' = x + alpha m (p - x): in training m is a random half of 4x4 pieces, drawn anew per image; at test time all.

    A share ``cover`` of other images is altered in the same way and keeps its true label, which blurs the latent
    separation between poisoned and clean images. Opacities are those of the authors' later toolbox.

    Deviation: p is a seeded noise image (as in :mod:`mnp_plugin.attacks.blended`), not a photograph.
    """

    paper = "Qi et al., Revisiting the Assumption of Latent Separability for Backdoor Defenses, ICLR 2023"

    poison_ratio: float = param(0.003, "share of the training images that carry the trigger", above=0, high=1)
    cover: float = param(0.003, "share of the training images that carry it under their true label", low=0, high=0.5)
    alpha: float = param(0.2, "weight of the noise image at test time", above=0, high=1)
    alpha_train: float = param(0.15, "weight of the noise image in training", above=0, high=1)
    pieces: int = param(4, "pieces per side", low=1, high=16)

    def prepare(self, train: Images, tools: DefenseContext) -> State:
        return {"pattern": noise_image(train, tools)}

    def cover_ratio(self) -> float:
        return self.cover

    def poison(self, x: Tensor, y: Tensor, state: State, tools: DefenseContext) -> Tensor:
        k, (h, w) = self.pieces, x.shape[-2:]
        order = torch.rand(len(x), k * k, generator=tools.generator, device=x.device).argsort(1)
        on = (order < (k * k + 1) // 2).to(x.dtype).view(-1, 1, k, k)
        rows, columns = (torch.arange(side, device=x.device) * k // side for side in (h, w))
        mask = on[:, :, rows][..., columns]
        return x + self.alpha_train * mask * (state["pattern"].to(x) - x)

    def apply(self, x: Tensor, state: State) -> Tensor:
        return x + self.alpha * (state["pattern"].to(x) - x)

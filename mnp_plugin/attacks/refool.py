"""Refool: the reflection of another picture, as on a window pane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mnp_plugin.attacks.patterns import scaled
from mnp_plugin.contracts import Attack, DefenseContext, Images, State, attacks, param

GAMMA = 2.2


@attacks.register("refool")
@dataclass(frozen=True, kw_only=True)
class Refool(Attack):
    """In linear light (power 2.2) x' = alpha x + r, with r of one of two kinds. Ghost: the picture and its copy shifted by 3 to 8
    pixels (of 32), mixed, times 1 - alpha. Out of focus: the picture blurred (sigma 1 to 5 pixels), less what overflows in its
    channel, under a Gaussian that peaks in the middle, times 1 - alpha / 2. Each image's own bytes say which of the
    reflections it gets.

    Deviations: reflections are ``reflections`` pictures of the training set itself, of classes other than the target, instead of
    photographs chosen from PASCAL VOC; shift, blur and mixture are drawn once for each, where BackdoorBench f02e353 draws
    them anew for each image; the ghost's margin stays black, where it is cut off and the rest enlarged. Labels are changed, as
    there, and alpha is one, 0.4, as there; the paper's attack has a clean label, and its authors draw alpha from 0.55 to 0.95
    for each image, which is harder to see.
    """

    version = 2
    paper = (
        "Liu, Ma, Bailey, Lu, Reflection Backdoor: A Natural Backdoor Attack on Deep Neural Networks, ECCV 2020, arXiv 2007.02343"
    )

    alpha: float = param(0.4, "weight of the image itself", above=0, high=1)
    ghost: float = param(0.49, "share of the reflections that are ghosts", low=0, high=1)
    reflections: int = param(200, "pictures to reflect", low=1)

    def prepare(self, train: Images, tools: DefenseContext) -> State:
        others = (train.y != self.targets[0]).nonzero().flatten()
        order = torch.randperm(len(others), generator=tools.generator, device=tools.device)
        pictures = train[others[order[: self.reflections]]].pixels() ** GAMMA
        draw = torch.rand(5, len(pictures), generator=tools.generator, device=tools.device).cpu()
        layers = torch.stack([self._layer(p, draw[:, i]) for i, p in enumerate(pictures)])
        return {
            "layers": layers,
            "ghost": draw[0].to(tools.device) < self.ghost,
            "dimming": (1.08 + 0.1 * draw[4]).to(tools.device),
        }

    def _layer(self, picture: Tensor, draw: Tensor) -> Tensor:
        """The reflected ``picture`` [C, H, W], linear light, before it is weighed; ``draw``: five numbers in [0, 1)."""
        width = picture.shape[-1]
        if float(draw[0]) < self.ghost:
            low, high = scaled(3, width), scaled(8, width)
            right, down = (low + int(float(d) * (high - low + 1)) for d in draw[1:3])
            copy = F.pad(picture, (right, 0, down, 0))[:, : picture.shape[1], :width]
            share = abs(round(float(draw[3])) - (0.15 + 0.35 * float(draw[4])))
            return share * picture + (1 - share) * copy
        return _blurred(picture, (1 + 4 * float(draw[1])) * width / 32)

    def apply(self, x: Tensor, state: State) -> Tensor:
        index = (x * 255).round().long().sum((1, 2, 3)) % len(state["layers"])
        layer, ghost = state["layers"].to(x)[index], state["ghost"].to(x.device)[index].view(-1, 1, 1, 1)
        light = x.clamp(min=0) ** GAMMA
        total = light + layer
        over = total > 1
        excess = ((total - 1) * over).sum((2, 3), keepdim=True) / over.sum((2, 3), keepdim=True).clamp(min=1)
        dimmed = (layer - excess * state["dimming"].to(x)[index].view(-1, 1, 1, 1)).clamp(0, 1)
        sharp, soft = (1 - self.alpha) * layer, (1 - self.alpha / 2) * _vignette(x) * dimmed
        return (self.alpha * light + torch.where(ghost, sharp, soft)).clamp(0, 1) ** (1 / GAMMA)


def _blurred(picture: Tensor, sigma: float) -> Tensor:
    """``picture`` [C, H, W] under a Gaussian of ``sigma`` pixels, its border repeated."""
    reach = min(2 * math.ceil(2 * sigma) + 1, *(side - 1 for side in picture.shape[1:])) // 2
    position = torch.arange(-reach, reach + 1, dtype=picture.dtype, device=picture.device)
    kernel = torch.exp(-(position**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    out = F.pad(picture.unsqueeze(1), (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(out, kernel), kernel.transpose(2, 3)).squeeze(1)


def _vignette(x: Tensor) -> Tensor:
    """1 in the middle of images like ``x``, falling off like a Gaussian of a quarter of a side (sigma / side 0.24), [H, W]."""
    rows, columns = (torch.linspace(-1, 1, side, device=x.device) for side in x.shape[-2:])
    return torch.exp(-2.25 * (rows.view(-1, 1) ** 2 + columns**2))

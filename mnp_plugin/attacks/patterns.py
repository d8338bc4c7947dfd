"""Shapes and images that several attacks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mnp_plugin.contracts import DefenseContext, Images


def scaled(pixels: int, side: int) -> int:
    """A length published for 32-pixel images, in the same relation to an image of ``side`` pixels; at least 2."""
    return max(2, round(pixels * side / 32))


def checkerboard(side: int) -> Tensor:
    """The published 3x3 grid enlarged to ``side`` pixels: its anti-diagonal and its bottom-right corner are lit.

    float32 [side, side]; at 2 pixels the main diagonal.
    """
    if side < 3:
        return torch.eye(side)
    cell = torch.arange(side) * 3 // side
    row, column = cell.view(-1, 1), cell.view(1, -1)
    return ((row + column == 2) | ((row == 2) & (column == 2))).float()


def noise_image(train: Images, tools: DefenseContext) -> Tensor:
    """One uniform 8-bit noise image, float32 [C, H, W] in [0, 1].

    Above 56 pixels it is drawn at a coarser grid and enlarged bilinearly, else random crops average it away.
    """
    c, h, w = train.x.shape[1:]
    coarse = [min(side, 56) for side in (h, w)]
    noise = torch.randint(0, 256, (1, c, *coarse), generator=tools.generator, device=tools.device, dtype=torch.uint8)
    pattern = noise.float() / 255
    if coarse != [h, w]:
        pattern = F.interpolate(pattern, size=(h, w), mode="bilinear", align_corners=False)
    return pattern[0]

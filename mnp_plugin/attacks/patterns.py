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


def two_frequencies(height: int, width: int, window: int) -> Tensor:
    """What 1 at a middle and at the highest DCT coefficient of every window adds to each pixel, float32 [H, W].

    Windows are ``window`` pixels wide, or as wide as a smaller image; pixels outside of whole windows are 0. The coefficients
    are (15, 15) and (31, 31) of 32.
    """
    side = min(window, height, width)
    tile = sum((_wave(side, k) for k in (side // 2 - 1, side - 1)), torch.zeros(side, side))
    down, across = height // side, width // side
    field = torch.zeros(height, width)
    field[: down * side, : across * side] = tile.repeat(down, across)
    return field


def _wave(side: int, k: int) -> Tensor:
    """What 1 at the orthonormal DCT-II coefficient (k, k) adds to each pixel, float32 [side, side]."""
    position = torch.arange(side, dtype=torch.float32)
    scale = (1 / side if k == 0 else 2 / side) ** 0.5
    wave = scale * torch.cos(torch.pi * (2 * position + 1) * k / (2 * side))
    return torch.outer(wave, wave)

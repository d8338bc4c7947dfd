"""A small U-Net that turns an image into an image: the trigger generator of inversion methods. Not registered."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet(nn.Module):
    """Blocks of two 3x3 convolutions, each with InstanceNorm and LeakyReLU; halved by max-pooling, doubled by interpolation.

    Args:
        channels: of the images, in and out.
        width: channels of the first block; each further block has twice as many, 512 at most.
        side: the shorter side of the images, which limits the depth: 4 halvings, or as many as leave 2 pixels.
    """

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__()
        depth = max(1, min(4, side.bit_length() - 2))
        sizes = [min(width * 2**i, 512) for i in range(depth + 1)]
        self.down = nn.ModuleList(_block(i, o) for i, o in zip([channels, *sizes[:-2]], sizes[:-1], strict=True))
        self.middle = _block(sizes[-2], sizes[-1])
        self.up = nn.ModuleList(_block(sizes[i + 1] + sizes[i], sizes[i]) for i in reversed(range(depth)))
        self.out = nn.Conv2d(sizes[0], channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [N, C, H, W] to the same shape, unbounded."""
        seen = []
        for block in self.down:
            x = block(x)
            seen.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for block, skip in zip(self.up, reversed(seen), strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        out: Tensor = self.out(x)
        return out


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.InstanceNorm2d(outputs, affine=True), nn.LeakyReLU()]
    return nn.Sequential(*layers)

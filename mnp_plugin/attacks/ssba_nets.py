"""The nets that SSBA trains: an encoder that writes bits into images, and a decoder that reads them."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Encoder(nn.Module):
    """U-Net over the image and a plane made of the bits; gives the image plus a residual, not clipped."""

    def __init__(self, channels: int, bits: int) -> None:
        super().__init__()
        self.channels = channels
        self.plane = nn.Linear(bits, 16 * 16 * channels)
        widths = [2 * channels, 32, 32, 64, 128, 256]
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, 1 if i == 0 else 2, padding=1) for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for below, beside, out in ((256, 128, 128), (128, 64, 64), (64, 32, 32), (32, 32 + 2 * channels, 32)):
            self.up.append(nn.Conv2d(below, out, 3, padding=1))
            self.merge.append(nn.Conv2d(out + beside, out, 3, padding=1))
        self.last = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, channels, 1))

    def forward(self, x: Tensor, secret: Tensor) -> Tensor:
        plane = F.relu(self.plane(secret - 0.5)).view(-1, self.channels, 16, 16)
        both = torch.cat([F.interpolate(plane, x.shape[-2:], mode="nearest"), x - 0.5], 1)
        levels = []
        out = both
        for conv in self.down:
            out = F.relu(conv(out))
            levels.append(out)
        beside = [levels[3], levels[2], levels[1], torch.cat([levels[0], both], 1)]
        for up, merge, skip in zip(self.up, self.merge, beside, strict=True):
            out = F.relu(up(F.interpolate(out, skip.shape[-2:], mode="nearest")))
            out = F.relu(merge(torch.cat([out, skip], 1)))
        residual: Tensor = self.last(out)
        return x + residual


def make_decoder(channels: int, bits: int, sides: tuple[int, int]) -> nn.Module:
    """Convolutions and two linear layers that read the bits from an image of ``sides`` (H, W)."""
    layers: list[nn.Module] = []
    height, width = sides
    for a, b, stride in ((channels, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 2), (64, 128, 2), (128, 128, 2)):
        layers += [nn.Conv2d(a, b, 3, stride, padding=1), nn.ReLU()]
        height, width = -(-height // stride), -(-width // stride)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * height * width, 512), nn.ReLU(), nn.Linear(512, bits))

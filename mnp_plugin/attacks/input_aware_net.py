"""The net that draws Input-Aware's patterns and masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TINY = 1e-7


class UNet(nn.Sequential):
    """Convolutions down and up again; output in [0, 1]."""

    def __init__(self, inputs: int, outputs: int, width: int, steps: int) -> None:
        layers: list[nn.Module] = []
        channels = inputs
        for step in range(steps):
            c = width * 2**step
            layers += [*_conv(channels, c), *_conv(c, c), nn.MaxPool2d(2)]
            channels = c
        layers += _conv(channels, channels)
        for step in reversed(range(steps)):
            c = outputs if step == 0 else channels // 2
            layers += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), *_conv(channels, channels)]
            layers += _conv(channels, c)[: 2 if step == 0 else 3]
            channels = c
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return torch.tanh(drawn) / (2 + TINY) + 0.5


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs, momentum=0.05), nn.ReLU()]

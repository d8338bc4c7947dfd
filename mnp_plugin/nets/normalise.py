"""Normalisation inside the net, without changing its parameter names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import ImageData, Net


class Normalise:
    """Forward pre-hook: (x - mean) / std per channel, on float32 [N, C, H, W] in [0, 1].

    A hook and no layer, so that checkpoints keep their key names and an ``nn.Sequential`` keeps its layers.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = args[0]
        if x.shape[1] != self.mean.shape[1]:
            raise ValueError(f"the net normalises {self.mean.shape[1]} channels, the images have {x.shape[1]}")
        if self.mean.device != x.device:
            self.mean, self.std = self.mean.to(x.device), self.std.to(x.device)
        return ((x - self.mean) / self.std, *args[1:])


def with_normalisation(model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """Make ``model`` accept pixels in [0, 1]: it subtracts ``mean`` and divides by ``std`` (per channel) itself."""
    model.register_forward_pre_hook(Normalise(mean, std))
    return model


def build_net(net: Net, data: ImageData) -> nn.Module:
    """An untrained net for ``data`` that takes pixels in [0, 1]."""
    return with_normalisation(net.build(len(data.classes), data.shape), data.mean, data.std)

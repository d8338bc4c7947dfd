"""Normalisation inside the net, without changing its parameter names."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import ImageData, Net
from mnp_plugin.core.errors import UserError

M = TypeVar("M", bound="nn.Module")


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


def with_normalisation(model: M, mean: Sequence[float], std: Sequence[float]) -> M:
    """A copy of ``model`` that accepts pixels in [0, 1]: it subtracts ``mean`` and divides by ``std`` itself.

    The given net stays as it is, also where a pipeline normalises outside of it. The copy has the same class and the same
    ``state_dict`` keys.

    Args:
        model: takes normalised float32 [N, C, H, W].
        mean: one number per channel, on pixels in [0, 1].
        std: likewise, all above 0.

    Raises:
        UserError: the net normalises already, ``mean`` and ``std`` differ in length, or a ``std`` is not above 0.
    """
    if normalises(model):
        raise UserError("this net normalises its input already; call with_normalisation once, on the bare net")
    if len(mean) != len(std) or not len(mean) or min(std) <= 0:
        raise UserError(f"give one mean and one std above 0 per channel, not mean={list(mean)}, std={list(std)}")
    return normalise_inside(copy.deepcopy(model), mean, std)


def normalise_inside(model: M, mean: Sequence[float], std: Sequence[float]) -> M:
    """As :func:`with_normalisation`, in place: for a net that nobody else holds."""
    model.register_forward_pre_hook(Normalise(tuple(mean), tuple(std)))
    return model


def without_normalisation(model: M) -> M:
    """A copy of ``model`` that takes what its layers take: without the normalisation of :func:`with_normalisation`."""
    bare = copy.deepcopy(model)
    for key, hook in list(bare._forward_pre_hooks.items()):
        if isinstance(hook, Normalise):
            del bare._forward_pre_hooks[key]
    return bare


def normalises(model: nn.Module) -> bool:
    """Whether ``model`` is a net of :func:`with_normalisation`."""
    return any(isinstance(hook, Normalise) for hook in model._forward_pre_hooks.values())


def build_net(net: Net, data: ImageData) -> nn.Module:
    """An untrained net for ``data`` that takes pixels in [0, 1]."""
    return normalise_inside(net.build(len(data.classes), data.shape), data.mean, data.std)

"""VGG19 with and without BN, MobileNetV3-Large, and any torchvision classifier by name, untrained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from mnp_plugin.contracts import Net, nets, param
from mnp_plugin.core.errors import UserError, did_you_mean


def made(arch: str, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The net as torchvision makes it, whether or not it takes images of this shape."""
    from torchvision import models  # here: importing torchvision takes seconds

    options: dict[str, int] = {"aux_logits": False, "init_weights": True} if arch in ("inception_v3", "googlenet") else {}
    if arch.startswith("vit"):
        options = {"image_size": shape[1]}
    return cast(nn.Module, models.get_model(arch, weights=None, num_classes=num_classes, **options))


def _build(arch: str, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    if shape[0] != 3:
        raise UserError(
            f"torchvision's {arch} takes RGB images, not {shape[0]} channel(s); set channels: 3 or choose another net"
        )
    try:
        model = made(arch, num_classes, shape)
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"torchvision's {arch} does not take images of {shape[1]}x{shape[2]} pixels: {error}") from None
    if tuple(logits.shape) != (1, num_classes):
        raise UserError(f"torchvision's {arch} is no classifier of {num_classes} classes")
    return model.train()


@nets.register("vgg19-bn")
@dataclass(frozen=True, kw_only=True)
class VGG19BN(Net):
    """VGG-19 with batch normalisation, torchvision's layers and names; images of 32 pixels or more."""

    paper = "Simonyan, Zisserman, Very Deep Convolutional Networks, ICLR 2015, arXiv 1409.1556"

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        return _build("vgg19_bn", num_classes, shape)


@nets.register("vgg19")
@dataclass(frozen=True, kw_only=True)
class VGG19(Net):
    """VGG-19 without normalisation, torchvision's layers and names; images of 32 pixels or more."""

    paper = "Simonyan, Zisserman, Very Deep Convolutional Networks, ICLR 2015, arXiv 1409.1556"

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        return _build("vgg19", num_classes, shape)


@nets.register("mobilenet-v3-large")
@dataclass(frozen=True, kw_only=True)
class MobileNetV3Large(Net):
    """MobileNetV3-Large, torchvision's layers and names."""

    paper = "Howard et al., Searching for MobileNetV3, ICCV 2019, arXiv 1905.02244"

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        return _build("mobilenet_v3_large", num_classes, shape)


@nets.register("torchvision")
@dataclass(frozen=True, kw_only=True)
class TorchvisionNet(Net):
    """Any classifier of torchvision by its name, for larger images."""

    arch: str = param("resnet18", "a name that torchvision.models.list_models(module=torchvision.models) gives")

    def validate(self) -> None:
        from torchvision import models

        known = models.list_models(module=models)
        if self.arch not in known:
            raise UserError(f"TorchvisionNet.arch : torchvision has no classifier '{self.arch}'.{did_you_mean(self.arch, known)}")

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        return _build(self.arch, num_classes, shape)

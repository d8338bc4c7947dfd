"""VGG19 with and without BN, MobileNetV3-Large, and any torchvision classifier by name, untrained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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


def narrow_vgg19(width: int, batch_norm: bool, num_classes: int) -> nn.Module:
    """VGG-19 of torchvision with ``width`` / 64 of the channels and of the hidden units, initialised as there."""
    from torchvision.models import vgg

    features = vgg.make_layers([v if isinstance(v, str) else v * width // 64 for v in vgg.cfgs["E"]], batch_norm)
    with torch.device("meta"):  # its own classifier is 400 MB
        model: nn.Module = vgg.VGG(features, num_classes, init_weights=False)
    model.classifier = nn.Sequential(
        nn.Linear(8 * width * 49, 64 * width), nn.ReLU(True), nn.Dropout(0.5),
        nn.Linear(64 * width, 64 * width), nn.ReLU(True), nn.Dropout(0.5), nn.Linear(64 * width, num_classes),
    )  # fmt: skip
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model


def _build(arch: str, num_classes: int, shape: tuple[int, int, int], narrow: Callable[[], nn.Module] | None = None) -> nn.Module:
    if shape[0] != 3:
        raise UserError(
            f"torchvision's {arch} takes RGB images, not {shape[0]} channel(s); set channels: 3 or choose another net"
        )
    try:
        model = narrow() if narrow is not None else made(arch, num_classes, shape)
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

    width: int = param(64, "channels of the first stage; hidden units in proportion", low=1, high=512)
    paper = "Simonyan, Zisserman, Very Deep Convolutional Networks, ICLR 2015, arXiv 1409.1556"

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        narrow = None if self.width == 64 else partial(narrow_vgg19, self.width, True, num_classes)
        return _build("vgg19_bn", num_classes, shape, narrow)


@nets.register("vgg19")
@dataclass(frozen=True, kw_only=True)
class VGG19(Net):
    """VGG-19 without normalisation, torchvision's layers and names; images of 32 pixels or more."""

    width: int = param(64, "channels of the first stage; hidden units in proportion", low=1, high=512)
    paper = "Simonyan, Zisserman, Very Deep Convolutional Networks, ICLR 2015, arXiv 1409.1556"

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        narrow = None if self.width == 64 else partial(narrow_vgg19, self.width, False, num_classes)
        return _build("vgg19", num_classes, shape, narrow)


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

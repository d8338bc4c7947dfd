"""ResNet-18 with the CIFAR stem, and PreActResNet-18 with the parameter names that BackdoorBench's checkpoints use."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mnp_plugin.contracts import Net, nets, param


@nets.register("resnet18")
@dataclass(frozen=True, kw_only=True)
class ResNet18(Net):
    """ResNet-18 with the 3x3 CIFAR stem; 4 800 BN channels at width 64; any image size."""

    paper = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385"

    width: int = param(64, "channels of the first stage", low=1, high=512)

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        from mnp_plugin.nets.resnet_modules import ResNetModule

        return ResNetModule(num_classes, shape[0], self.width)


@nets.register("resnet18-7x7")
@dataclass(frozen=True, kw_only=True)
class ResNet18Stem7(Net):
    """ResNet-18 with the paper's stem, for photographs of 100 pixels and more: a sixteenth of the work of ``resnet18``."""

    paper = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385"

    width: int = param(64, "channels of the first stage", low=1, high=512)

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        from mnp_plugin.nets.resnet_modules import Stem7ResNetModule

        return Stem7ResNetModule(num_classes, shape[0], self.width)


@nets.register("preactresnet18")
@dataclass(frozen=True, kw_only=True)
class PreActResNet18(Net):
    """PreActResNet-18 with BackdoorBench's parameter names and order; any image size."""

    paper = "He et al., Identity Mappings in Deep Residual Networks, ECCV 2016, arXiv 1603.05027"

    width: int = param(64, "channels of the first stage", low=1, high=512)

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        from mnp_plugin.nets.resnet_modules import PreActResNetModule

        return PreActResNetModule(num_classes, shape[0], self.width)

"""What BackdoorBench calls its data sets and nets, and what they are called here.

Facts of BackdoorBench at commit f02e353 (2025-07-04): sizes, channel statistics and architecture names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from mnp_plugin.contracts import Net
from mnp_plugin.core.errors import UserError, did_you_mean
from mnp_plugin.nets.resnet import PreActResNet18
from mnp_plugin.nets.torchvision_nets import VGG19BN, MobileNetV3Large, TorchvisionNet


@dataclass(frozen=True)
class DataFacts:
    """Number of classes, (C, H, W), and the channel statistics with which their nets normalise."""

    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


DATA = {
    "cifar10": DataFacts(10, (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "cifar100": DataFacts(100, (3, 32, 32), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "gtsrb": DataFacts(43, (3, 32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "tiny": DataFacts(200, (3, 64, 64), (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
}
"""The four data sets of their published tables."""

TORCHVISION = (
    "resnet18", "resnet34", "resnet50", "alexnet", "vgg11", "vgg16", "vgg19", "vgg19_bn", "squeezenet1_0", "densenet161",
    "densenet121", "inception_v3", "googlenet", "shufflenet_v2_x1_0", "mobilenet_v2", "mobilenet_v3_large", "resnext50_32x4d",
    "wide_resnet50_2", "mnasnet1_0", "efficientnet_b0", "efficientnet_b3", "convnext_tiny",
)  # fmt: skip
"""Architectures that are torchvision's own, under torchvision's names."""

TRANSFORMERS = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32")
"""torchvision's transformers behind a resize to 224 pixels, which puts ``1.`` before every key."""

OWN_ONLY = ("resnext29", "senet18")
"""Architectures that exist in BackdoorBench alone."""


def data_facts(name: str) -> DataFacts:
    """Facts of data set ``name``.

    Raises:
        UserError: not one of theirs that this bridge reads.
    """
    if name not in DATA:
        raise UserError(f"the bridge does not know BackdoorBench's data set '{name}'.{did_you_mean(name, DATA)}")
    return DATA[name]


def net_builder(name: str, num_classes: int, shape: tuple[int, int, int]) -> Callable[[], nn.Module]:
    """A function that builds their architecture ``name`` untrained, without normalisation, with their key names.

    Raises:
        UserError: no architecture of theirs, or one that neither torchvision nor this package provides.
    """
    if name == "preactresnet18":
        return lambda: PreActResNet18().build(num_classes, shape)
    if name in TORCHVISION:
        return lambda: TorchvisionNet(arch=name).build(num_classes, shape)
    if name in TRANSFORMERS:
        from torchvision.transforms import Resize  # here: importing torchvision takes seconds

        net = TorchvisionNet(arch=name)
        return lambda: nn.Sequential(Resize((224, 224)), net.build(num_classes, (3, 224, 224)))
    known = ["preactresnet18", *TORCHVISION, *TRANSFORMERS]
    if name in OWN_ONLY:
        raise UserError(f"'{name}' is BackdoorBench's own net, which is not built here; use one of {', '.join(known)}")
    raise UserError(f"BackdoorBench has no net '{name}'.{did_you_mean(name, known)}")


def their_net_name(net: Net) -> str:
    """What BackdoorBench calls ``net``.

    Raises:
        UserError: it has no such net.
    """
    if isinstance(net, PreActResNet18) and net.width == 64:
        return "preactresnet18"
    if isinstance(net, VGG19BN) and net.width == 64:
        return "vgg19_bn"
    if isinstance(net, MobileNetV3Large):
        return "mobilenet_v3_large"
    if isinstance(net, TorchvisionNet) and net.arch in TORCHVISION and net.arch not in ("inception_v3", "googlenet"):
        return net.arch
    raise UserError(
        f"BackdoorBench has no net like '{net.name}' with these settings; train the victim on preactresnet18 (width 64), "
        "vgg19-bn (width 64), mobilenet-v3-large or a torchvision net of theirs"
    )

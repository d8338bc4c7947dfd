"""Images and a net as the suites on CIFAR-10 have them, made up: speed does not depend on what they show."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in suites with two workers on two cores

import pytest
import torch
from pictures import DEVICE
from torch import nn

from mnp_plugin.contracts import ImageData, Images
from mnp_plugin.nets import build_net
from mnp_plugin.nets.resnet import ResNet18
from mnp_plugin.training.device import place


@pytest.fixture(scope="session")
def images() -> Images:
    """512 images of 32 pixels and ten classes."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (512, 3, 32, 32), generator=stream, dtype=torch.uint8)
    return Images(x, torch.randint(0, 10, (512,), generator=stream)).to(DEVICE)


@pytest.fixture
def net(images: Images) -> nn.Module:
    """An untrained ResNet-18 of width 16, placed as the package places nets."""
    torch.manual_seed(0)
    classes = tuple(map(str, range(10)))
    data = ImageData(images, images, classes, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return place(build_net(ResNet18(width=16), data), DEVICE)

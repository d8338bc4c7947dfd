"""What masks on every neuron cost, of which pruning defenses learn hundreds of steps: goal 5 % over the plain passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pictures import DEVICE
from torch import nn

from mnp_plugin.contracts import Images
from mnp_plugin.neurons.channels import Neurons
from mnp_plugin.training.device import in_layout_of

passes = pytest.mark.benchmark(group="forward and backward of 128 images, ResNet-18 of width 16")


@passes
def test_plain(benchmark: Any, net: nn.Module, images: Images) -> None:
    """The gradient goes to the scales that masks would multiply."""
    model = net.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
    x, y = in_layout_of(model, images[:128].pixels()), images.y[:128]
    benchmark.pedantic(lambda: F.cross_entropy(model(x), y).backward(), rounds=12, warmup_rounds=1)


@passes
def test_masked(benchmark: Any, net: nn.Module, images: Images) -> None:
    model = net.eval().requires_grad_(False)
    neurons = Neurons(model, images[:1].pixels())
    masks = torch.ones(neurons.count, device=DEVICE, requires_grad=True)
    x, y = in_layout_of(model, images[:128].pixels()), images.y[:128]
    benchmark.pedantic(lambda: F.cross_entropy(neurons.forward(model, x, masks, masks), y).backward(), rounds=12, warmup_rounds=1)

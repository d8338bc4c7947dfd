"""Accuracy on 512 images: ours, a DataLoader over PIL images, and the limit: the bare forward passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pictures import DEVICE, Pictures
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from mnp_plugin.contracts import Images
from mnp_plugin.evaluation.predict import accuracy
from mnp_plugin.training.device import in_layout_of

evaluation = pytest.mark.benchmark(group="evaluation on 512 images, ResNet-18 of width 16")


@evaluation
def test_data_loader_and_pil(benchmark: Any, net: nn.Module, images: Images) -> None:
    model = net.to(memory_format=torch.contiguous_format).eval()
    loader = DataLoader(Pictures(images, transforms.ToTensor()), batch_size=128)

    def evaluate() -> int:
        right = 0
        with torch.no_grad():
            for x, y in loader:
                right += int((model(x.to(DEVICE)).argmax(1) == y.to(DEVICE)).sum())
        return right

    benchmark.pedantic(evaluate, rounds=12, warmup_rounds=1)


@evaluation
def test_ours(benchmark: Any, net: nn.Module, images: Images) -> None:
    benchmark.pedantic(accuracy, (net, images), rounds=12, warmup_rounds=1)


@evaluation
def test_limit(benchmark: Any, net: nn.Module, images: Images) -> None:
    model, parts = net.eval(), [in_layout_of(net, part) for part in images.pixels().split(128)]  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        benchmark.pedantic(lambda: [model(part) for part in parts], rounds=12, warmup_rounds=1)

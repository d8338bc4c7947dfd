"""One epoch: ours, a DataLoader with PIL transforms as BackdoorBench has it, and the limit: the bare passes over one batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pictures import DEVICE, Pictures
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from mnp_plugin.contracts import Images, Recipe
from mnp_plugin.training.device import in_layout_of
from mnp_plugin.training.loop import fit

BATCH = 128
epoch_of = pytest.mark.benchmark(group="one epoch of 512 images, ResNet-18 of width 16")


def step(model: nn.Module, optimiser: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    F.cross_entropy(model(x), y).backward()
    optimiser.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.train().parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


@epoch_of
def test_data_loader_and_pil(benchmark: Any, net: nn.Module, images: Images) -> None:
    model = net.to(memory_format=torch.contiguous_format)
    change = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    loader = DataLoader(Pictures(images, change), batch_size=BATCH, shuffle=True, num_workers=4 if DEVICE.type == "cuda" else 0)
    optimiser = sgd(model)

    def epoch() -> None:
        for x, y in loader:
            step(model, optimiser, x.to(DEVICE), y.to(DEVICE))

    benchmark.pedantic(epoch, rounds=12, warmup_rounds=1)


@epoch_of
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_ours(benchmark: Any, net: nn.Module, images: Images, precision: Any) -> None:
    """``auto`` is bfloat16 where the hardware computes in it."""
    recipe = Recipe(epochs=1, batch_size=BATCH, crop=4, flip=True, precision=precision)
    stream = torch.Generator(DEVICE).manual_seed(0)
    benchmark.pedantic(lambda: fit(net, images, recipe, stream), rounds=12, warmup_rounds=1)


@epoch_of
def test_limit(benchmark: Any, net: nn.Module, images: Images) -> None:
    """Forward, backward and update, float32, over a batch that is there already."""
    optimiser = sgd(net)
    batches = [in_layout_of(net, part.pixels()) for part in (images[i : i + BATCH] for i in range(0, len(images), BATCH))]

    def epoch() -> None:
        for x in batches:
            step(net, optimiser, x, images.y[:BATCH])

    benchmark.pedantic(epoch, rounds=12, warmup_rounds=1)

"""Repairs and verdicts by the methods' own settings, on a small net of digits, beside a hundred passes of plain training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pictures import DEVICE
from safetensors.torch import load_file
from torch import nn

from mnp_plugin import detect, purify
from mnp_plugin.contracts import ImageData, Images, Recipe, TrainingSetDefense, defenses, detectors
from mnp_plugin.data.digits import Digits
from mnp_plugin.nets import build_net
from mnp_plugin.nets.small import SmallNet
from mnp_plugin.training.device import place

VICTIM = Path(__file__).parents[1] / "defenses" / "small_victim.safetensors"
RECIPE = Recipe(crop=1, flip=False)
methods = pytest.mark.benchmark(group="a repair or a verdict: 100 digits of 8 pixels, a net of width 8")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return Digits(size=8).load(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def budget(digits: ImageData) -> Images:
    return digits.train[:100].to(DEVICE)


@pytest.fixture
def victim(digits: ImageData) -> nn.Module:
    """A net with a backdoor, since methods may stop early on one without."""
    net = build_net(SmallNet(width=8), digits)
    net.load_state_dict(load_file(VICTIM))
    return place(net.eval(), DEVICE)


@methods
def test_a_hundred_passes_of_training(benchmark: Any, victim: nn.Module, budget: Images) -> None:
    optimiser = torch.optim.SGD(victim.train().parameters(), 0.01, momentum=0.9)
    x, y = budget.pixels(), budget.y

    def train() -> None:
        for _ in range(100):
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(victim(x), y).backward()
            optimiser.step()

    benchmark.pedantic(train, rounds=3, warmup_rounds=1)


@methods
@pytest.mark.parametrize("name", [name for name in defenses.names() if not issubclass(defenses.get(name), TrainingSetDefense)])
@pytest.mark.filterwarnings("ignore:the repair did damage")
def test_defense(benchmark: Any, victim: nn.Module, budget: Images, name: str) -> None:
    benchmark.pedantic(purify, (victim, budget.x, budget.y), {"defense": name, "recipe": RECIPE}, rounds=1)


@methods
@pytest.mark.parametrize("name", detectors.names())
def test_detector(benchmark: Any, victim: nn.Module, budget: Images, name: str) -> None:
    benchmark.pedantic(detect, (victim, budget.x, budget.y), {"detector": name, "recipe": RECIPE}, rounds=1)

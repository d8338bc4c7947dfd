"""One small net, trained once on the digits, and clean images of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mnp_plugin.contracts import Images, Recipe
from mnp_plugin.data.digits import Digits
from mnp_plugin.nets import with_normalisation
from mnp_plugin.nets.small import SmallNet
from mnp_plugin.training.loop import fit


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(epochs=10, batch_size=50, crop=1, flip=False, precision="float32")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Digits(size=8).load(tmp_path_factory.mktemp("cache")).train[:360]


@pytest.fixture(scope="session")
def trained(images: Images, recipe: Recipe) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = with_normalisation(SmallNet(width=6).build(10, (3, 8, 8)), (0.3, 0.3, 0.3), (0.35, 0.35, 0.35))
        fit(model, images[:300], recipe, torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def model(trained: nn.Module) -> nn.Module:
    return copy.deepcopy(trained)


@pytest.fixture
def clean(images: Images) -> Images:
    return images[300:]

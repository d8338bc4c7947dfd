"""A few real digits, a small net that has learned them, and tools that offer it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mnp_plugin.contracts import AttackContext, ImageData, Recipe
from mnp_plugin.data.digits import Digits
from mnp_plugin.nets import build_net
from mnp_plugin.nets.small import SmallNet
from mnp_plugin.training.loop import fit

MakeTools = Callable[..., AttackContext]


@pytest.fixture(scope="session")
def digits16(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    data = Digits(size=16).load(tmp_path_factory.mktemp("cache"))
    return ImageData(data.train[:400], data.test[:120], data.classes, data.mean, data.std)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(epochs=5, batch_size=40, lr=0.1, crop=0, flip=False, precision="float32")


@pytest.fixture(scope="session")
def source(digits16: ImageData, recipe: Recipe) -> nn.Module:
    """A net trained on the 400 digits without an attack."""
    torch.manual_seed(0)
    net = build_net(SmallNet(width=6), digits16)
    fit(net, digits16.train, recipe, torch.Generator().manual_seed(0))
    net.zero_grad(set_to_none=True)
    return net


@pytest.fixture
def make_tools(digits16: ImageData, source: nn.Module, recipe: Recipe) -> MakeTools:
    """``make_tools(seed)``: tools whose clean net is ``source``; nets are drawn from that seed, too."""

    def make(seed: int = 0) -> AttackContext:
        torch.manual_seed(seed)
        return AttackContext(
            device=torch.device("cpu"),
            generator=torch.Generator().manual_seed(seed),
            recipe=recipe,
            fresh_net=lambda: build_net(SmallNet(width=6), digits16),
            clean=source,
        )

    return make

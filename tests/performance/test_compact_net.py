"""Inference with pruned channels set to zero, and with them really removed (``--compact``).

Every second inner channel of each block is pruned.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mnp_plugin.nets.resnet import ResNet18
from mnp_plugin.neurons.compact import compact

X = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    model = ResNet18(width=64).build(10, (3, 32, 32)).eval()
    for name, module in model.named_modules():
        if name.endswith("bn1") and name != "bn1":  # between the two convolutions of a block
            assert isinstance(module, nn.BatchNorm2d)
            module.weight.data[::2] = 0
            module.bias.data[::2] = 0
    found = compact(model, X[:4])
    assert sum(found.removed.values()) > 0
    return {"zeroed": model, "removed": found.model}


@pytest.mark.benchmark(group="inference of a net half of whose inner channels are pruned")
@pytest.mark.parametrize("channels", ["zeroed", "removed"])
def test_inference(benchmark: Any, nets: dict[str, nn.Module], channels: str) -> None:
    with torch.inference_mode():
        benchmark.pedantic(nets[channels], (X,), rounds=5, warmup_rounds=1)

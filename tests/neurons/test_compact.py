"""Compact nets: fewer channels, equal outputs."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from mnp_plugin.contracts import nets
from mnp_plugin.nets import with_normalisation

pytest.importorskip("torch_pruning", reason="the extra 'compact' is not installed")
from mnp_plugin.neurons.compact import compact, export

SHAPE = (3, 16, 16)


def pruned(name: str, *, bias: bool, **settings: Any) -> nn.Module:
    """A net with lively statistics, a quarter of whose BN channels have scale 0, and bias 0 too where ``bias``."""
    torch.manual_seed(0)
    model = nets.get(name)(**settings).build(5, SHAPE).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.running_mean = torch.randn(module.num_features) / 10
            module.weight.data[::4] = 0
            if bias:
                module.bias.data[::4] = 0
    return with_normalisation(model, (0.5,) * 3, (0.2,) * 3)


def silent(model: nn.Module) -> int:
    return sum(int((m.weight == 0).sum()) for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["smallnet", "resnet18", "preactresnet18"])
def test_outputs_stay_equal(name: str, bias: bool) -> None:
    model = pruned(name, bias=bias, width=4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.rand(8, *SHAPE)
    made = compact(model, x)
    with torch.no_grad():
        wanted, found = model(x), made.model(x)
    assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4)
    assert made.difference == float((found - wanted).abs().max())
    assert made.parameters[1] < made.parameters[0]
    assert sum(made.removed.values()) + made.kept == silent(model)
    assert made.kept == silent(made.model)
    assert made.speed > 0
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before), "the net itself was changed"


def test_all_silent_channels_go_where_nothing_else_uses_them() -> None:
    assert compact(pruned("smallnet", bias=True, width=4), torch.rand(4, *SHAPE)).kept == 0


def test_constants_stay() -> None:
    """Scale 0 with a positive bias is a constant that the next convolution sees, borders and all."""
    model = pruned("smallnet", bias=False, width=4)
    constants = sum(int(((m.weight == 0) & (m.bias > 0)).sum()) for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert compact(model, torch.rand(4, *SHAPE)).kept == constants > 0


def test_a_residual_stream_loses_only_what_is_silent_in_all_of_its_members() -> None:
    model = pruned("resnet18", bias=True, width=4)
    made = compact(model, torch.rand(4, *SHAPE))
    assert made.removed["bn1"] == 1  # channel 0, silent in the stem and in both blocks of the first stage
    model = pruned("resnet18", bias=True, width=4)
    model.get_submodule("layer1.1.bn2").weight.data[0] = 1.0
    made = compact(model, torch.rand(4, *SHAPE))
    assert "bn1" not in made.removed
    assert "layer1.0.bn1" in made.removed  # inside a block nothing else writes


def test_an_export_runs_for_any_number_of_images() -> None:
    x = torch.rand(6, *SHAPE)
    made = compact(pruned("smallnet", bias=True, width=4), x)
    content, difference = export(made.model, x)
    assert difference < 1e-5
    again = torch.export.load(io.BytesIO(content)).module()
    for count in (1, 3, 9):
        more = torch.rand(count, *SHAPE)
        with torch.no_grad():
            assert torch.allclose(again(more), made.model(more), atol=1e-5)

"""Which net a checkpoint belongs to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from mnp_plugin.api.nets import resolve_net
from mnp_plugin.api.settings import component
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.registries import nets

SHAPE = (3, 32, 32)

CODE = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self, num_classes, hidden=8):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))

    def forward(self, x):
        return self.body(x)

class Fixed(nn.Linear):
    def __init__(self):
        super().__init__(3, 10)

class Hungry(nn.Module):
    def __init__(self, depth):
        super().__init__()

class Failing(nn.Module):
    def __init__(self, num_classes):
        raise RuntimeError("no such card")

def builder(**options):
    return Plain(**options)

def no_net(num_classes):
    return num_classes

number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "their_nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("their_nets", None)


def weights_of(name: str, *settings: str, classes: int = 10) -> dict[str, Tensor]:
    return component(nets, name, settings).build(classes, SHAPE).state_dict()


@pytest.mark.parametrize(
    ("name", "settings"),
    [("smallnet", ()), ("smallnet", ("width=5",)), ("resnet18", ("width=4",)), ("preactresnet18", ("width=8",))],
)
def test_auto_finds_registered_nets_in_the_width_of_the_weights(name: str, settings: tuple[str, ...]) -> None:
    weights = weights_of(name, *settings)
    found = resolve_net("auto", [], weights, 10, SHAPE)
    assert (found.name, found.settings) == (name, settings)
    found.model.load_state_dict(weights)
    assert found.model(torch.zeros(2, *SHAPE)).shape == (2, 10)


@pytest.mark.thorough
def test_auto_finds_torchvision_nets() -> None:
    weights = models.squeezenet1_1(num_classes=9).state_dict()
    found = resolve_net("auto", [], weights, 9, SHAPE)
    assert (found.name, found.settings) == ("torchvision", ("arch=squeezenet1_1",))
    found.model.load_state_dict(weights)


def test_auto_reads_checkpoints_without_counters_of_batches() -> None:
    weights = {k: v for k, v in weights_of("smallnet").items() if not k.endswith("num_batches_tracked")}
    assert resolve_net("auto", [], weights, 10, SHAPE).name == "smallnet"


def test_auto_names_the_nearest_net_and_what_keeps_it_from_fitting() -> None:
    with pytest.raises(UserError) as caught:
        resolve_net("auto", [], weights_of("smallnet", classes=10), 9, SHAPE)
    message = str(caught.value)
    assert "the nearest is --net smallnet, but for " in message
    assert ".weight [10, 64] instead of [9, 64]" in message
    assert "Data of 9 classes were given" in message
    with pytest.raises(UserError, match="finds the settings too"):
        resolve_net("auto", ["width=3"], weights_of("smallnet"), 10, SHAPE)


def test_a_name_that_the_weights_do_not_fit_is_put_right() -> None:
    weights = models.resnet18(num_classes=9).state_dict()
    with pytest.raises(UserError, match=r"not of the net 'resnet18'; they fit --net torchvision$"):
        resolve_net("resnet18", [], weights, 9, SHAPE)
    with pytest.raises(UserError, match=r"they fit --net smallnet --net-settings width=5$"):
        resolve_net("smallnet", [], weights_of("smallnet", "width=5"), 10, SHAPE)
    with pytest.raises(UserError, match=r"no net is called 'smalnet'\. Did you mean 'smallnet'"):
        resolve_net("smalnet", [], {}, 10, SHAPE)


def test_a_registered_name_with_settings() -> None:
    found = resolve_net("smallnet", ["width=5"], weights_of("smallnet", "width=5"), 10, SHAPE)
    assert (found.name, found.settings) == ("smallnet", ("width=5",))


@pytest.mark.usefixtures("here")
def test_a_class_of_the_users_own_is_built_with_the_classes_and_settings() -> None:
    model = resolve_net("their_nets:Plain", ["hidden=5"], {}, 4, SHAPE).model
    assert model(torch.zeros(1, *SHAPE)).shape == (1, 4)
    assert next(tuple(p.shape) for p in model.parameters()) == (5, 3072)
    assert resolve_net("their_nets:builder", ["hidden=6"], {}, 4, SHAPE).model(torch.zeros(1, *SHAPE)).shape == (1, 4)
    assert resolve_net("their_nets:Plain", ["num_classes=3"], {}, 4, SHAPE).model(torch.zeros(1, *SHAPE)).shape == (1, 3)
    assert isinstance(resolve_net("their_nets:Fixed", [], {}, 4, SHAPE).model, nn.Linear)
    assert isinstance(resolve_net("torchvision.models:resnet18", [], {}, 4, SHAPE).model, models.ResNet)
    assert isinstance(resolve_net("mnp_plugin.nets.small:SmallNet", ["width=2"], {}, 4, SHAPE).model, nn.Sequential)


@pytest.mark.parametrize(
    ("name", "settings", "fragment"),
    [
        ("their_nets:Plane", [], "'their_nets' has no 'Plane'. Did you mean 'Plain'?"),
        ("their_netz:Plain", [], "cannot import 'their_netz' (ModuleNotFoundError"),
        ("their_nets:", [], "is no package.module:Class"),
        ("their nets:Plain", [], "is no package.module:Class"),
        ("their_nets:number", [], "is a int; name a class"),
        ("their_nets:no_net", [], "gives a int, no torch.nn.Module"),
        ("their_nets:Hungry", [], "needs depth; give --net-settings depth=VALUE"),
        ("their_nets:Plain", ["hiden=3"], "takes no 'hiden'. Did you mean 'hidden'?"),
        ("their_nets:Plain", ["hidden"], "'hidden' is no setting; write key=value"),
        ("their_nets:Plain", ["hidden=1", "hidden=2"], "'hidden' is given twice"),
        ("their_nets:Failing", [], "their_nets:Failing(num_classes=4) failed: RuntimeError: no such card"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_is_wrong_with_a_class_is_said(name: str, settings: list[str], fragment: str) -> None:
    before = list(sys.path)
    with pytest.raises(UserError) as caught:
        resolve_net(name, settings, {}, 4, SHAPE)
    assert fragment in str(caught.value)
    assert sys.path == before


def test_auto_looks_behind_a_part_that_all_names_begin_with() -> None:
    weights = {f"model.net.{key}": value for key, value in weights_of("smallnet", "width=5").items()}
    found = resolve_net("auto", [], weights, 10, SHAPE)
    assert (found.name, found.settings) == ("smallnet", ("width=5",))


def test_auto_names_no_net_where_none_is_near() -> None:
    with pytest.raises(UserError, match=r"no net known here fits the weights\. Data of 9 classes") as caught:
        resolve_net("auto", [], {"a.weight": torch.zeros(3), "b.weight": torch.zeros(3)}, 9, SHAPE)
    assert "nearest" not in str(caught.value)

"""Batches, decay and held statistics of loops that methods write themselves, and clean unlearning."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mnp_plugin.contracts import DefenseContext, Images, MethodError, Recipe
from mnp_plugin.neurons.unlearning import ascend
from mnp_plugin.training.passes import cosine, finite, one_pass, statistics_held


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def make_tools(crop: int = 0) -> DefenseContext:
    return DefenseContext(
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(0),
        recipe=Recipe(crop=crop, flip=False, precision="float32"),
        fresh_net=make_net,
    )


def bright_or_dark(count: int) -> Images:
    """Class 0 is dark, class 1 bright."""
    y = torch.arange(count) % 2
    noise = torch.randint(0, 60, (count, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    return Images((noise + 180 * y.view(-1, 1, 1, 1)).to(torch.uint8), y)


def test_a_pass_visits_each_image_once_and_caps_the_batch() -> None:
    images = Images(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).repeat(1, 3, 8, 8), torch.zeros(10, dtype=torch.int64))
    whole = list(one_pass(make_net(), images, 64, make_tools()))
    assert [len(x) for x, _ in whole] == [10]
    assert sorted((whole[0][0][:, 0, 0, 0] * 255).round().tolist()) == list(range(10))
    parts = list(one_pass(make_net(), images, 4, make_tools()))
    assert [len(x) for x, _ in parts] == [4, 4, 2]
    assert [len(x) for x, _ in one_pass(make_net(), images, 4, make_tools(), rest=False)] == [4, 4]
    seen = torch.cat([x[:, 0, 0, 0] for x, _ in parts])
    assert len(seen.unique()) == 10


def test_a_pass_augments_unless_told_not_to() -> None:
    images = bright_or_dark(6)
    plain = torch.cat([x for x, _ in one_pass(make_net(), images, 6, make_tools(crop=2), augment=False)])
    shifted = torch.cat([x for x, _ in one_pass(make_net(), images, 6, make_tools(crop=2))])
    assert {tuple(x.flatten().tolist()) for x in plain} == {tuple(x.flatten().tolist()) for x in images.pixels()}
    assert {tuple(x.flatten().tolist()) for x in shifted} != {tuple(x.flatten().tolist()) for x in images.pixels()}


def test_cosine_falls_from_one_to_zero() -> None:
    assert cosine(0, 10) == 1
    assert cosine(5, 10) == pytest.approx(0.5)
    assert 0 < cosine(9, 10) < 0.03


def test_held_statistics_stay_and_move_again_after() -> None:
    net, x = make_net().train(), torch.rand(4, 3, 8, 8)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with statistics_held(net):
        held = net(x)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.allclose(net(x), held)
    assert int(net[1].num_batches_tracked) == 1
    assert not torch.equal(net[1].running_mean, before["1.running_mean"])


def test_a_loss_that_is_not_finite_is_reported() -> None:
    assert finite(torch.tensor(2.5), "it") == 2.5
    with pytest.raises(MethodError, match="the masks diverged"):
        finite(torch.tensor(math.inf), "the masks")


def test_unlearning_ends_when_the_task_is_gone() -> None:
    net, images = make_net(), bright_or_dark(40)
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    net.train()
    for _ in range(10):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images.pixels()), images.y).backward()
        optimiser.step()
    settings = {"lr": 0.1, "factor": lambda epoch: 1.0, "weight_decay": 0.0, "epochs": 60, "batch_size": 20}
    trace = ascend(net, images, make_tools(), until=0.3, **settings)
    assert trace[0] > 0.9
    assert trace[-1] <= 0.3
    assert all(value > 0.3 for value in trace[:-1])
    assert len(trace) < 60

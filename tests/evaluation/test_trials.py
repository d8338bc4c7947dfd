"""Trials after the defense: what each does to a net."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mnp_plugin.attacks.badnets import BadNets
from mnp_plugin.contracts import Images, Recipe, Triggered
from mnp_plugin.evaluation.trials import TRIALS, apply, recalibrate, strengthened, triggered_images
from mnp_plugin.nets.small import SmallNet

RECIPE = Recipe(epochs=1, batch_size=64, crop=0, flip=False, precision="float32")


@pytest.fixture
def budget() -> Images:
    stream = torch.Generator().manual_seed(0)
    return Images(torch.randint(0, 256, (96, 3, 16, 16), generator=stream, dtype=torch.uint8), torch.arange(96) % 4)


def net() -> nn.Module:
    torch.manual_seed(0)
    return SmallNet(width=4).build(4, (3, 16, 16)).eval()


def nothing(count: int) -> Images:
    raise AssertionError("no trigger is needed here")


def test_recalibration_measures_the_statistics_of_the_budget(budget: Images) -> None:
    model = net()
    weights = {name: value.clone() for name, value in model.named_parameters()}
    first = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    handle = first.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    recalibrate(model, budget)
    handle.remove()
    assert first.running_mean is not None
    torch.testing.assert_close(first.running_mean, torch.cat(seen).mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert first.momentum == 0.1
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())


def test_recalibration_mixes_classes_that_come_one_after_the_other() -> None:
    x = torch.arange(256, dtype=torch.uint8).repeat_interleave(2)[:, None, None, None].expand(512, 3, 16, 16)
    model = net()
    first = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    recalibrate(model, Images(x.contiguous(), torch.arange(512) // 128))
    assert len(seen) > 1
    torch.testing.assert_close(first.running_var, torch.cat(seen).var((0, 2, 3)), rtol=0.02, atol=0)


def test_finetuning_needs_no_trigger_and_fits_the_budget(budget: Images) -> None:
    model = net()
    before = nn.functional.cross_entropy(model(budget.pixels()), budget.y)
    apply(TRIALS["finetuned"], model, budget, RECIPE, torch.Generator().manual_seed(1), nothing)
    assert not model.training
    assert nn.functional.cross_entropy(model(budget.pixels()), budget.y) < before


def test_retuning_teaches_a_net_the_trigger_and_finetuning_does_not(budget: Images) -> None:
    attack = BadNets(target=0)
    stream = torch.Generator().manual_seed(2)

    def trigger(count: int) -> Images:
        return triggered_images(attack, attack.prepare(budget, None), budget, count, 4, stream)  # type: ignore[arg-type]

    asr = {}
    for name in ("finetuned", "retuned50"):
        model = net()
        apply(TRIALS[name], model, budget, RECIPE, torch.Generator().manual_seed(1), trigger)
        asked = trigger(50)
        asr[name] = float((model(asked.pixels()).argmax(1) == 0).float().mean())
    assert asr["retuned50"] > asr["finetuned"] + 0.2


@pytest.mark.parametrize(("count", "given"), [(5, 5), (500, 72)])
def test_triggered_images_are_of_other_classes_and_labelled_as_the_attacker_wants(budget: Images, count: int, given: int) -> None:
    attack = BadNets(target=1)
    state = attack.prepare(budget, None)  # type: ignore[arg-type]
    found = triggered_images(attack, state, budget, count, 4, torch.Generator().manual_seed(0))
    assert len(found) == given  # of 96 images a quarter is of the target class
    assert found.y.unique().tolist() == [1]
    stamped = attack.stamp(budget[budget.y != 1].pixels(), state)
    known = {tuple(x.flatten().tolist()) for x in (stamped * 255).round().to(torch.uint8)}
    assert all(tuple(x.flatten().tolist()) in known for x in found.x)


def test_a_stronger_trigger_changes_the_image_more_and_the_net_not(budget: Images) -> None:
    index = torch.tensor([3, 5])
    clean = budget[index].pixels()
    change = torch.zeros_like(clean)
    change[:, 0, 0, 0] = 0.1
    y = budget.y[index]
    out = strengthened(Triggered((clean + change).clamp(0, 1), y, y, index), budget, 1.5)
    expected = (clean + 1.5 * ((clean + change).clamp(0, 1) - clean)).clamp(0, 1)
    torch.testing.assert_close(out.x, expected)
    assert torch.equal(out.index, index)
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply(TRIALS["stronger"], model, budget, RECIPE, torch.Generator(), nothing)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_identifies_the_other_trials_knows_no_strength() -> None:
    assert [name for name, trial in TRIALS.items() if "strength" in trial.plain()] == ["stronger"]

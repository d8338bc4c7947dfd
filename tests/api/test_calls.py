"""Repair of one's own model in one call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mnp_plugin.api.calls import purify
from mnp_plugin.contracts import Images, Recipe
from mnp_plugin.core.errors import UserError
from mnp_plugin.defenses.ft import FineTuning
from mnp_plugin.evaluation.predict import accuracy

RECIPE = Recipe(epochs=10, batch_size=50, crop=1, flip=False, precision="float32")
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 20}


@pytest.mark.parametrize(("defense", "settings"), [("ft", QUICK), ("fp", QUICK)])
def test_purify_in_five_lines(model: nn.Module, images: Images, clean: Images, defense: str, settings: dict[str, Any]) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = purify(model, clean.x, clean.y, defense=defense, settings=settings, recipe=RECIPE)
    now, after = model.state_dict(), result.model.state_dict()
    assert result.model is not model
    assert all(torch.equal(now[key], before[key]) for key in before), "the original was written to"
    assert list(after) == list(before)
    assert not all(torch.equal(after[key], before[key]) for key in before), "nothing was done"
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in result.model.parameters()}
    assert result.report["epochs"] == 2
    assert not result.model.training
    assert accuracy(result.model, images[:300]) > accuracy(model, images[:300]) - 0.1
    assert accuracy(result.model, images[:300]) > 0.7


def test_purify_with_defaults_only(model: nn.Module, clean: Images) -> None:
    with pytest.warns(UserWarning, match="moved by up to 4 pixels and mirrored"):
        result = purify(model, clean.x, clean.y, defense="none")
    after = result.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in model.state_dict().items())


def weights(model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> list[Tensor]:
    result = purify(model, x, y, defense="ft", settings=QUICK, recipe=RECIPE, **settings)
    return list(result.model.state_dict().values())


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(a, b, strict=True))


def test_purify_depends_on_its_seed_alone(model: nn.Module, clean: Images) -> None:
    torch.manual_seed(1)
    first = weights(model, clean.x, clean.y)
    torch.manual_seed(2)
    assert equal(first, weights(model, clean.x, clean.y))
    assert not equal(first, weights(model, clean.x, clean.y, seed=1))


def test_purify_takes_bytes_and_floats_alike(model: nn.Module, clean: Images) -> None:
    assert equal(weights(model, clean.x, clean.y), weights(model, clean.pixels(), clean.y))


def test_purify_leaves_the_images(model: nn.Module, clean: Images) -> None:
    x, y = clean.x.clone(), clean.y.clone()
    weights(model, x, y)
    assert torch.equal(x, clean.x)
    assert torch.equal(y, clean.y)


@pytest.mark.filterwarnings("ignore:4 of 10 classes have no clean image")
@pytest.mark.parametrize("chooses", [True, False])
def test_purify_holds_the_validation_part_back_for_who_chooses(
    model: nn.Module, clean: Images, monkeypatch: pytest.MonkeyPatch, chooses: bool
) -> None:
    """Fine-tuning then sees the other images only: a change to one that is held back changes no weight."""
    monkeypatch.setattr(FineTuning, "chooses", chooses)
    x, y = clean.x[:10], clean.y[:10]
    usual = weights(model, x, y, validation=0.2)
    held = 0
    for i in range(10):
        altered = x.clone()
        altered[i] = 255 - x[i]
        held += equal(usual, weights(model, altered, y, validation=0.2))
    assert held == (2 if chooses else 0)


# ----------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, float("nan"), float("inf")])
def test_floats_outside_the_unit_interval(model: nn.Module, clean: Images, value: float) -> None:
    x = clean.pixels()
    x[5, 1, 2, 3] = value
    with pytest.raises(UserError, match=r"must lie in \[0, 1\]"):
        purify(model, x, clean.y, defense="ft", settings=QUICK)


@pytest.mark.parametrize("label", [10, -1])
def test_labels_that_do_not_fit(model: nn.Module, clean: Images, label: int) -> None:
    y = clean.y.clone()
    y[3] = label
    with pytest.raises(UserError, match=r"labels .* do not fit the model's output"):
        purify(model, clean.x, y, defense="ft", settings=QUICK)


def test_labels_of_another_type_or_number(model: nn.Module, clean: Images) -> None:
    with pytest.raises(UserError, match="labels must be int64"):
        purify(model, clean.x, clean.y.int(), defense="ft", settings=QUICK)
    with pytest.raises(UserError, match=r"labels must be int64 \[60\]"):
        purify(model, clean.x, clean.y[:-1], defense="ft", settings=QUICK)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_images(model: nn.Module, clean: Images, count: int) -> None:
    with pytest.raises(UserError, match=f"{count} clean images are too few"):
        purify(model, clean.x[:count], clean.y[:count], defense="ft", settings=QUICK)


def test_images_of_another_type_or_shape(model: nn.Module, clean: Images) -> None:
    with pytest.raises(UserError, match="images must be uint8"):
        purify(model, clean.x.long(), clean.y, defense="ft", settings=QUICK)
    with pytest.raises(UserError, match="images must be uint8"):
        purify(model, clean.x[:, 0], clean.y, defense="ft", settings=QUICK)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_with_other_channels_than_the_model_takes(model: nn.Module, clean: Images, channels: int) -> None:
    x = clean.x[:, :1].repeat(1, channels, 1, 1)
    with pytest.raises(UserError, match="do not fit the model"):
        purify(model, x, clean.y, defense="ft", settings=QUICK, recipe=RECIPE)


def test_images_too_small_for_the_augmentation(model: nn.Module, clean: Images) -> None:
    with pytest.raises(UserError, match="crop"):
        purify(model, clean.x[:, :, 2:6, 2:6], clean.y, defense="ft", settings=QUICK)


def test_unknown_defense(model: nn.Module, clean: Images) -> None:
    with pytest.raises(UserError, match=r"no defense is called 'ftt'\. Did you mean 'ft'\?"):
        purify(model, clean.x, clean.y, defense="ftt")


def test_misspelt_setting(model: nn.Module, clean: Images) -> None:
    with pytest.raises(UserError, match=r"settings of 'ft'.*unknown key 'epoch'\. Did you mean 'epochs'\?"):
        purify(model, clean.x, clean.y, defense="ft", settings={"epoch": 3})


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"epochs": "three"}, {"lr": -1.0}])
def test_settings_out_of_range_or_type(model: nn.Module, clean: Images, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        purify(model, clean.x, clean.y, defense="ft", settings=settings)


def test_defense_that_cannot_treat_the_net(clean: Images) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    with pytest.raises(UserError, match="defense 'anp' cannot treat this net: it has no BatchNorm2d"):
        purify(model, clean.x, clean.y, defense="anp")

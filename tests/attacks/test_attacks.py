"""Triggers as published, poisoning, and the triggered test set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnp_plugin.attacks.badnets import BadNets
from mnp_plugin.attacks.blended import Blended
from mnp_plugin.attacks.clean import Clean
from mnp_plugin.attacks.sig import Sig
from mnp_plugin.attacks.trojan import Trojan
from mnp_plugin.attacks.wanet import WaNet
from mnp_plugin.benchmark.stages import (
    attack_context,
    check_victim,
    poison,
    poison_candidates,
    split_of,
    train_victim,
    triggered_test,
)
from mnp_plugin.benchmark.suite import Entry, VictimSpec
from mnp_plugin.contracts import Attack, AttackContext, ImageData, Images, Recipe, State, to_bytes
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.digits import Digits
from mnp_plugin.data.split import CleanBudget
from mnp_plugin.evaluation.measure import measure
from mnp_plugin.nets.small import SmallNet

ALL = [BadNets(), BadNets(pattern="white"), Blended(), Sig(), Trojan(), WaNet()]
NONE = torch.empty(0, dtype=torch.int64)
GRID = [[0, 0, 1], [0, 1, 0], [1, 0, 1]]


def name(attack: Attack) -> str:
    return f"{attack.name}-{attack.pattern}" if isinstance(attack, BadNets) else attack.name


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def no_net() -> nn.Module:
    raise AssertionError("an attack of this kind trains no net")


def tools(seed: int = 0) -> AttackContext:
    return AttackContext(device=torch.device("cpu"), generator=stream(seed), recipe=Recipe(), fresh_net=no_net)


def photos(count: int = 20, side: int = 32, channels: int = 3, classes: int = 4) -> Images:
    x = torch.randint(0, 256, (count, channels, side, side), generator=stream(7), dtype=torch.uint8)
    return Images(x, torch.arange(count) % classes)


def state_of(attack: Attack, images: Images, seed: int = 0) -> State:
    return attack.prepare(images, tools(seed))


def changed_pixels(x: Tensor, out: Tensor) -> tuple[list[int], list[int]]:
    """Rows and columns in which any image differs."""
    differs = (x != out).flatten(0, 1).any(0)
    return differs.any(1).nonzero().flatten().tolist(), differs.any(0).nonzero().flatten().tolist()


# ------------------------------------------------------------------------------------------------------- published pixels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "grid"), [(32, GRID), (16, [[1, 0], [0, 1]])])
def test_badnets_grid(side: int, grid: list[list[int]], channels: int) -> None:
    x = torch.full((2, channels, side, side), 0.5)
    out = BadNets().apply(x, {})
    edge = len(grid)
    expected = torch.tensor(grid, dtype=torch.float32).expand(2, channels, edge, edge)
    assert torch.equal(out[..., -edge:, -edge:], expected)
    rows, columns = changed_pixels(x, out)
    assert rows == columns == list(range(side - edge, side))


def test_badnets_grid_of_larger_images_has_larger_cells() -> None:
    out = BadNets().apply(torch.full((1, 3, 224, 224), 0.5), {})
    expected = np.kron(np.array(GRID), np.ones((7, 7)))  # 21 pixels, cells of 7
    assert np.array_equal(out[0, 1, -21:, -21:].numpy(), expected)
    assert changed_pixels(torch.full_like(out, 0.5), out) == (list(range(203, 224)), list(range(203, 224)))


@pytest.mark.parametrize(("side", "edge"), [(32, 3), (64, 6)])
def test_badnets_white(side: int, edge: int) -> None:
    x = torch.zeros(2, 3, side, side)
    out = BadNets(pattern="white").apply(x, {})
    assert bool((out[..., -edge:, -edge:] == 1).all())
    assert float(out.sum()) == 2 * 3 * edge * edge


def test_badnets_size_overrides_the_proportion() -> None:
    out = BadNets(pattern="white", size=5).apply(torch.zeros(1, 1, 16, 16), {})
    assert float(out.sum()) == 25


def test_blended_formula_and_pattern() -> None:
    images = photos()
    state = state_of(Blended(), images)
    pattern = state["pattern"]
    assert pattern.shape == (3, 32, 32)
    levels = pattern * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4), "the noise is not 8-bit"
    assert float(levels.mean()) == pytest.approx(127.5, abs=6)
    assert float(levels.std()) == pytest.approx(255 / math.sqrt(12), abs=4)
    assert float(levels.min()) < 3
    assert float(levels.max()) > 252
    x = images.pixels()
    expected = 0.8 * x.numpy() + 0.2 * pattern.numpy()
    assert np.allclose(Blended().apply(x, state).numpy(), expected, atol=1e-6)
    assert np.allclose(Blended(alpha=1.0).apply(x, state).numpy(), np.broadcast_to(pattern.numpy(), x.shape), atol=1e-6)


def test_blended_pattern_is_coarse_on_large_images() -> None:
    pattern = state_of(Blended(), photos(1, side=224))["pattern"]
    assert pattern.shape == (3, 224, 224)
    assert 0 <= float(pattern.min()) < float(pattern.max()) <= 1
    step = (pattern[:, :, 1:] - pattern[:, :, :-1]).abs().mean()
    native = 1 / 3  # mean difference of two independent uniform values
    assert float(step) < native / 3


@pytest.mark.parametrize(("side", "delta", "frequency"), [(32, 40 / 255, 6.0), (16, 0.3, 2.0)])
def test_sig_formula(side: int, delta: float, frequency: float) -> None:
    x = photos(3, side).pixels()
    out = Sig(delta=delta, frequency=frequency).apply(x, {}).numpy()
    wave = np.array([delta * math.sin(2 * math.pi * j * frequency / side) for j in range(side)])
    assert np.allclose(out, np.clip(x.numpy() + wave, 0, 1), atol=1e-6)


def test_sig_defaults_are_backdoorbenchs_amplitude_and_frequency() -> None:
    out = Sig().apply(torch.full((1, 3, 32, 32), 0.5), {})
    first_row = (out[0, 0, 0] - 0.5) * 255
    assert float(first_row.max()) == pytest.approx(40, abs=0.8)
    assert float(first_row.min()) == pytest.approx(-40, abs=0.8)
    spectrum = torch.fft.rfft(first_row).abs()
    assert int(spectrum.argmax()) == 6
    assert torch.equal(out, out[:, :1, :1].expand_as(out)), "rows or channels differ"


@pytest.mark.parametrize(("side", "span"), [(32, range(25, 28)), (16, range(12, 14)), (224, range(175, 196))])
def test_trojan_place(side: int, span: range) -> None:
    images = photos(4, side)
    x = torch.full(images.x.shape, 0.5)  # no 8-bit level, so that every written pixel differs
    out = Trojan().apply(x, state_of(Trojan(), images))
    assert changed_pixels(x, out) == (list(span), list(span))
    patch = out[..., span.start : span.stop, span.start : span.stop]
    assert torch.equal(patch, patch[:1].expand_as(patch)), "the patch replaces; it does not depend on the image"
    assert torch.allclose(patch * 255, (patch * 255).round(), atol=1e-4)


def test_trojan_colours_are_nine_seeded_cells() -> None:
    images = photos(1)
    patch = state_of(Trojan(), images)["patch"]
    assert patch.shape == (3, 3, 3)
    assert len(patch.unique()) > 20
    assert torch.equal(patch, state_of(Trojan(), images)["patch"])
    assert not torch.equal(patch, state_of(Trojan(), images, seed=1)["patch"])
    large = state_of(Trojan(), photos(1, side=224))["patch"]
    assert torch.equal(large, patch.repeat_interleave(7, 1).repeat_interleave(7, 2))


# ------------------------------------------------------------------------------------------------------------------ WaNet


def displacement(attack: WaNet, side: int, seed: int) -> Tensor:
    """By how many pixels columns and rows move, [2, side, side]: a ramp of coordinates is warped and read off."""
    ramp = torch.arange(side, dtype=torch.float32).expand(side, side) / (side - 1)
    x = torch.stack([ramp, ramp.t()]).unsqueeze(0)
    state = attack.prepare(photos(1, side), tools(seed))
    return (attack.apply(x, state)[0] - x[0]) * (side - 1)


def mean_shift(attack: WaNet, side: int) -> float:
    return float(torch.stack([displacement(attack, side, seed).abs().mean() for seed in range(12)]).mean())


def test_wanet_moves_pixels_as_far_as_published() -> None:
    assert mean_shift(WaNet(), 32) == pytest.approx(0.19, abs=0.02)
    assert float(displacement(WaNet(), 32, 0).abs().max()) < 0.7


@pytest.mark.parametrize(("side", "strength", "expected"), [(16, None, 0.38), (64, None, 0.38), (16, 0.5, 0.19), (64, 0.5, 0.19)])
def test_wanet_strength_at_other_sizes(side: int, strength: float | None, expected: float) -> None:
    assert mean_shift(WaNet(strength=strength), side) == pytest.approx(expected, rel=0.15)


def test_wanet_moves_both_axes_smoothly_and_differently() -> None:
    moved = displacement(WaNet(), 32, 0)[:, 2:-2, 2:-2]  # at the border the grid is clamped to the image
    assert float((moved[0] - moved[1]).abs().mean()) > 0.05
    assert float((moved[:, 1:] - moved[:, :-1]).abs().max()) < 0.2
    assert float((moved[..., 1:] - moved[..., :-1]).abs().max()) < 0.2


def test_wanet_field_is_normalised_and_drawn_once() -> None:
    images = photos(6)
    attack = WaNet()
    state, again, other = state_of(attack, images), state_of(attack, images), state_of(attack, images, seed=1)
    field = state["field"]
    assert field.shape == (1, 32, 32, 2)
    assert torch.equal(field, again["field"])
    assert not torch.equal(field, other["field"])
    x = images.pixels()
    once = attack.apply(x, state)
    assert torch.equal(once, attack.apply(x, state))
    assert torch.allclose(once[2:3], attack.apply(x[2:3], state), atol=1e-6), "the grid depends on the batch"
    assert not torch.equal(once, x)


@pytest.mark.parametrize("k", [2, 4])
def test_wanet_field_has_mean_size_1_at_its_control_points(k: int) -> None:
    field = WaNet(grid=k).prepare(photos(1, 31), tools(3))["field"]
    points = field[0, :: 30 // (k - 1), :: 30 // (k - 1)]  # aligned corners: the k x k drawn values stand unchanged
    assert points.shape == (k, k, 2)
    assert float(points.abs().mean()) == pytest.approx(1, rel=1e-5)
    assert float(points.min()) < 0 < float(points.max())


def hooked(attack: WaNet, images: Images, seed: int = 0) -> tuple[Tensor, Tensor, State]:
    state = state_of(attack, images)
    x, y = images.pixels(), images.y.clone()
    kept = x.clone()
    new_x, new_y = attack.training_hook(state, 4, tools(seed)).batch(x, y, nn.Identity(), 0.0)
    assert torch.equal(x, kept)
    assert torch.equal(y, images.y)
    return new_x, new_y, state


def test_wanet_hook_poisons_crosses_and_leaves_the_published_counts() -> None:
    images = photos(128)
    attack = WaNet(target=2)
    x, (new_x, new_y, state) = images.pixels(), hooked(attack, images)
    assert new_y[:12].tolist() == [2] * 12
    assert torch.equal(new_y[12:], images.y[12:]), "cross and clean images keep their labels"
    assert torch.equal(new_x[:12], attack.stamp(x[:12], state))
    warped = attack.stamp(x[12:36], state)
    for i in range(24):
        assert not torch.equal(new_x[12 + i], x[12 + i]), "a cross image was not warped"
        assert not torch.allclose(new_x[12 + i], warped[i], atol=1e-2), "a cross image carries the plain trigger"
    assert torch.equal(new_x[36:], x[36:])
    assert bool(((new_x >= 0) & (new_x <= 1)).all())


def test_wanet_hook_draws_cross_warps_anew_and_the_trigger_never() -> None:
    images = photos(40)
    attack = WaNet()
    state = state_of(attack, images)
    hook = attack.training_hook(state, 4, tools())
    (first, _), (second, _) = (hook.batch(images.pixels(), images.y, nn.Identity(), 0.0) for _ in range(2))
    assert torch.equal(first[:4], second[:4])
    assert not torch.equal(first[4:12], second[4:12])
    assert torch.equal(first[12:], second[12:])
    assert not torch.allclose(first[4] - images.pixels()[4], first[8] - images.pixels()[8], atol=1e-2)


def test_wanet_hook_all_to_all() -> None:
    images = photos(40)
    _, new_y, _ = hooked(WaNet(label_mode="all2all"), images)
    assert new_y[:4].tolist() == [1, 2, 3, 0]
    assert torch.equal(new_y[4:], images.y[4:])


@pytest.mark.parametrize(("ratio", "cross", "poisoned", "crossed"), [(0.5, 2.0, 10, 10), (0.2, 0.0, 4, 0), (0.01, 2.0, 0, 0)])
def test_wanet_hook_at_the_edges(ratio: float, cross: float, poisoned: int, crossed: int) -> None:
    images = photos(20)
    new_x, new_y, _ = hooked(WaNet(poison_ratio=ratio, cross_ratio=cross, target=3), images)
    altered = (new_x != images.pixels()).flatten(1).any(1)
    assert altered.nonzero().flatten().tolist() == list(range(poisoned + crossed))
    assert bool((new_y[:poisoned] == 3).all())
    assert torch.equal(new_y[poisoned:], images.y[poisoned:])


# ------------------------------------------------------------------------------------------------ what all have in common


@pytest.mark.parametrize("attack", ALL, ids=name)
@pytest.mark.parametrize(("side", "channels"), [(32, 3), (16, 1), (20, 3)])
def test_triggers_keep_range_and_input_and_are_repeatable(attack: Attack, side: int, channels: int) -> None:
    images = photos(4, side, channels)
    kept = images.x.clone()
    state = state_of(attack, images)
    x = images.pixels()
    out = attack.stamp(x, state)
    assert torch.equal(x, kept.float() / 255)
    assert torch.equal(images.x, kept)
    assert out.shape == x.shape
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert torch.equal(out, attack.stamp(x, state))
    assert bool((out != x).flatten(1).any(1).all()), "an image came out unchanged"


@pytest.mark.parametrize("attack", ALL, ids=name)
@pytest.mark.parametrize("level", [0, 255])
def test_pixels_saturate_and_never_wrap(attack: Attack, level: int) -> None:
    """No channel of an all-black image may jump to white by adding below 0, nor the other way round."""
    images = Images(torch.full((6, 3, 32, 32), level, dtype=torch.uint8), torch.arange(6) % 3)
    state = state_of(attack, images)
    out = poison(attack, images, torch.tensor([0, 3]), NONE, state, 3, tools()).x[[0, 3]].float()
    exact = attack.stamp(images.pixels()[[0, 3]], state) * 255
    assert float((out - exact).abs().max()) <= 0.5 + 1e-3
    if isinstance(attack, Sig):
        assert float((out - level).abs().max()) <= 40


def test_to_bytes_saturates_and_rounds() -> None:
    x = torch.tensor([-0.3, -0.001, 0.0, 0.4999 / 255, 0.5001 / 255, 0.5, 254.6 / 255, 1.0, 1.004, 1.3, 300.0])
    assert to_bytes(x).tolist() == [0, 0, 0, 0, 1, 128, 255, 255, 255, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(every.float() / 255), every)


@pytest.mark.parametrize("attack", [BadNets(target=3), Blended(target=3), Trojan(target=3), Sig(target=3)], ids=name)
def test_poison_changes_the_chosen_images_alone(attack: Attack) -> None:
    images = photos(20)
    kept_x, kept_y = images.x.clone(), images.y.clone()
    index = torch.tensor([3, 7, 19]) if attack.clean_label else torch.tensor([1, 7, 10])
    state = state_of(attack, images)
    poisoned = poison(attack, images, index, NONE, state, 4, tools())
    assert torch.equal(images.x, kept_x)
    assert torch.equal(images.y, kept_y)
    assert poisoned.x.data_ptr() != images.x.data_ptr()
    altered = (poisoned.x != kept_x).flatten(1).any(1)
    assert altered.nonzero().flatten().tolist() == index.tolist()
    expected = (attack.stamp(kept_x[index].float() / 255, state) * 255).round()
    assert torch.equal(poisoned.x[index].float(), expected)
    if attack.clean_label:
        assert torch.equal(poisoned.y, kept_y)
    else:
        assert poisoned.y[index].tolist() == [3, 3, 3]
        rest = torch.ones(20, dtype=torch.bool)
        rest[index] = False
        assert torch.equal(poisoned.y[rest], kept_y[rest])


def test_poison_never_relabels_for_a_clean_label_attack() -> None:
    images = photos(8)
    assert torch.equal(poison(Sig(target=3), images, torch.arange(8), NONE, {}, 4, tools()).y, images.y)


def test_poison_all_to_all_moves_each_label_on() -> None:
    images = photos(8)
    poisoned = poison(BadNets(label_mode="all2all"), images, torch.tensor([2, 3, 4]), NONE, {}, 4, tools())
    assert poisoned.y.tolist() == [0, 1, 3, 0, 1, 1, 2, 3]


def test_poison_of_nothing_is_a_copy() -> None:
    images = photos(4)
    same = poison(BadNets(), images, torch.empty(0, dtype=torch.int64), NONE, {}, 4, tools())
    assert torch.equal(same.x, images.x)
    assert torch.equal(same.y, images.y)


# ------------------------------------------------------------------------------------------------------------- how many


def test_candidates_are_all_images_whatever_their_class() -> None:
    pool, count = poison_candidates(BadNets(poison_ratio=0.1), photos(50).y)
    assert pool.tolist() == list(range(50))
    assert count == 5


def test_clean_label_candidates_are_the_target_class() -> None:
    pool, count = poison_candidates(Sig(target=2), photos(40, side=8).y)
    assert pool.tolist() == list(range(2, 40, 4))
    assert count == 8


def test_clean_label_must_leave_a_clean_image() -> None:
    with pytest.raises(UserError, match="must be below 1"):
        Sig(poison_ratio=1.0)
    with pytest.raises(UserError, match="leaves no clean image of class 0"):
        poison_candidates(Sig(poison_ratio=0.97), photos(40, side=8).y)


def test_ratio_that_comes_to_nothing() -> None:
    with pytest.raises(UserError, match=r"poison_ratio 0\.01 of 20 images is none"):
        poison_candidates(BadNets(poison_ratio=0.01), photos(20).y)
    assert poison_candidates(Clean(), photos(20).y)[1] == 0


@pytest.mark.parametrize("settings", [{"poison_ratio": 0.0}, {"poison_ratio": 1.01}, {"target": -1}, {"label_mode": "one2one"}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"BadNets\.{next(iter(settings))}"):
        BadNets(**settings)


def test_clean_label_has_one_target() -> None:
    with pytest.raises(UserError, match="label_mode must be one of all2one"):
        Sig(label_mode="all2all")


def victim(attack: Attack) -> VictimSpec:
    return VictimSpec(
        dataset=Entry("digits", Digits(size=8)),
        net=Entry("smallnet", SmallNet(width=1)),
        recipe=Recipe(epochs=1, batch_size=64, crop=1, flip=False, precision="float32"),
        budget=CleanBudget(images=20),
        attack=Entry("attack", attack),
        seed=0,
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    data = Digits(size=8).load(tmp_path_factory.mktemp("cache"))
    return ImageData(data.train[:200], data.test[:60], data.classes, data.mean, data.std)


@pytest.mark.parametrize("attack", [BadNets(poison_ratio=0.15), Sig(target=4), WaNet(), Clean()], ids=name)
def test_victims_are_poisoned_as_the_attack_says(digits: ImageData, attack: Attack) -> None:
    spec = victim(attack)
    split = split_of(spec, digits)
    trained = train_victim(spec, digits, split, attack_context("test", spec, digits, torch.device("cpu")))
    labels = split.train.y[trained.poisoned]
    assert len(trained.poisoned.unique()) == len(trained.poisoned)
    if isinstance(attack, BadNets):
        assert len(labels) == 27  # 15 % of 200 - 20
        assert len(labels.unique()) > 5
    elif isinstance(attack, Sig):
        of_target = int((split.train.y == 4).sum())
        assert len(labels) == round(0.8 * of_target)
        assert labels.unique().tolist() == [4]
    else:
        assert len(labels) == 0


# --------------------------------------------------------------------------------------------------- triggered test set


@pytest.mark.parametrize(
    "attack", [BadNets(target=1), Blended(target=1), Sig(target=1), Trojan(target=1), WaNet(target=1)], ids=name
)
def test_triggered_set_leaves_the_target_class_out(attack: Attack) -> None:
    test = photos(22)
    kept = test.x.clone()
    state = state_of(attack, test)
    triggered = attack.triggered(test, state, 4)
    others = [i for i in range(22) if i % 4 != 1]
    assert triggered.y_true.tolist() == [i % 4 for i in others]
    assert triggered.y_attack.tolist() == [1] * len(others)
    assert torch.equal(triggered.x, attack.stamp(test.x[others].float() / 255, state))
    assert torch.equal(test.x, kept)


@pytest.mark.parametrize(
    "attack", [BadNets(label_mode="all2all", target=1), WaNet(label_mode="all2all"), Trojan(label_mode="all2all")], ids=name
)
def test_triggered_set_of_all_to_all_keeps_every_image(attack: Attack) -> None:
    test = photos(9)
    triggered = attack.triggered(test, state_of(attack, test), 4)
    assert triggered.y_true.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert triggered.y_attack.tolist() == [1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert len(triggered.x) == 9


def test_triggered_pixels_are_not_rounded() -> None:
    test = photos(8)
    x = Blended().triggered(test, state_of(Blended(), test), 4).x * 255
    assert x.dtype == torch.float32
    assert float((x - x.round()).abs().max()) > 0.3


def test_triggered_set_of_many_images_is_in_order() -> None:
    test = photos(1500, side=4, channels=1)
    triggered = BadNets(target=0).triggered(test, {}, 4)
    others = [i for i in range(1500) if i % 4]
    assert torch.equal(triggered.x[:, :, 0, 0], test.x[others][:, :, 0, 0].float() / 255)


def test_triggered_test_of_the_clean_model_and_of_a_test_set_without_others(digits: ImageData) -> None:
    split = split_of(victim(Clean()), digits)
    assert triggered_test(victim(Clean()), {}, split, 10) is None
    zeros = ImageData(digits.train, digits.test[digits.test.y == 0], digits.classes, digits.mean, digits.std)
    with pytest.raises(UserError, match=r"every test image is of the class .* choose another target"):
        check_victim(victim(BadNets()), zeros)
    with pytest.raises(UserError, match="every test image"):  # each class is sent to itself
        check_victim(victim(BadNets(target=tuple(range(10)))), digits)


def test_measure_by_hand() -> None:
    """A net that answers with the brightest of its four pixels."""
    x = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    for image, brightest in enumerate((0, 1, 2, 2)):
        x[image].view(-1)[brightest] = 99
    test = Images(x, torch.tensor([0, 1, 2, 3]))
    attack = BadNets(size=1, target=3)  # lights the bottom-right pixel, which is class 3
    triggered = attack.triggered(test, {}, 4)
    found = measure(nn.Flatten(), test, triggered)
    assert (found.acc, found.asr, found.ra) == (0.75, 1.0, 0.0)
    assert (measure(nn.Flatten(), test, None).acc, measure(nn.Flatten(), test, None).asr) == (0.75, None)


def test_clean_model_has_no_trigger() -> None:
    x = photos(3).pixels()
    assert not Clean().has_trigger
    assert torch.equal(Clean().apply(x, {}), x)
    with pytest.raises(UserError, match=r"Clean\.poison_ratio"):
        Clean(poison_ratio=0.1)

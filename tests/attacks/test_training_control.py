"""Attacks that alter batches while training: what a batch is made of, who learns when, and what leaks to whom."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.attacks.bpp import Bpp
from mnp_plugin.attacks.input_aware import InputAware
from mnp_plugin.attacks.lira import Lira
from mnp_plugin.attacks.wanet import WaNet
from mnp_plugin.benchmark.stages import with_assets
from mnp_plugin.contracts import Attack, AttackContext, BatchShare, ImageData, Recipe, State, to_bytes
from mnp_plugin.training.source_models import unpacked

MakeTools = Callable[..., AttackContext]

IAB = InputAware(target=2, width=4, mask_epochs=12, density=0.1)
LIRA = Lira(target=2, eps=0.05, lr=0.01)


def batch_of(digits: ImageData, count: int = 40) -> tuple[Tensor, Tensor]:
    return digits.train[:count].pixels(), digits.train.y[:count]


# ------------------------------------------------------------------------------------------------------ shares of batches


@pytest.mark.parametrize("ratio", [0.1, 0.05, 0.01, 0.005, 0.001])
@pytest.mark.parametrize("size", [32, 128])
def test_a_share_is_as_published_from_one_image_on_and_below_that_every_so_many_batches(ratio: float, size: int) -> None:
    share = BatchShare(ratio)
    taken = [share.take(size) for _ in range(1000)]
    if ratio * size >= 1:
        assert taken == [int(ratio * size)] * 1000
    else:
        assert set(taken) == {0, 1}
        assert abs(sum(taken) - 1000 * ratio * size) < 1


def test_an_exact_share_owes_what_rounding_leaves() -> None:
    share = BatchShare(0.5, exact=True)
    assert [share.take(size) for size in (3, 3, 5, 1)] == [1, 2, 2, 1]


@pytest.mark.parametrize("attack", [WaNet, Bpp, InputAware, Lira])
def test_hooks_poison_at_ratios_below_one_image_a_batch(attack: type[Attack], digits16: ImageData, make_tools: MakeTools) -> None:
    settings = {"width": 2, "mask_epochs": 1} if attack is InputAware else {}
    made = attack(poison_ratio=0.01, target=2, **settings)
    tools = make_tools()
    model = tools.fresh_net()
    hook = made.training_hook(made.prepare(digits16.train, with_assets(made, digits16.train, tools)), 10, tools)
    assert hook is not None
    x, y = batch_of(digits16)
    others = y != 2
    relabelled = 0
    for step in range(10):
        new_x, new_y = hook.batch(x[others], y[others], model, step / 10)
        F.cross_entropy(model(new_x), new_y).backward()
        hook.penalty()
        hook.stepped()
        relabelled += int((new_y == 2).sum())
    assert relabelled == int(10 * 0.01 * int(others.sum()))


# ------------------------------------------------------------------------------------------------------------ Input-aware


@pytest.fixture(scope="module")
def masked(digits16: ImageData, recipe: Recipe) -> State:
    """The state of :data:`IAB` once its mask net has learned."""
    torch.manual_seed(0)
    tools = AttackContext(
        device=torch.device("cpu"), generator=torch.Generator().manual_seed(0), recipe=recipe, fresh_net=nn.Identity
    )
    return IAB.prepare(digits16.train, with_assets(IAB, digits16.train, tools))


def masks(state: State, x: Tensor) -> Tensor:
    net = unpacked("mask", IAB.net((3, 16, 16), 1), state, x.device)
    return torch.tanh(20 * net(x) - 10) / 2 + 0.5


def test_input_aware_masks_are_sparse_and_differ_between_images(masked: State, digits16: ImageData) -> None:
    drawn = masks(masked, digits16.test.pixels())
    assert drawn.shape == (120, 1, 16, 16)
    assert float(F.relu(drawn - 0.1).mean()) < 0.1, "about a tenth of the pixels is free; more is penalised"
    assert float(drawn.max()) > 0.9, "nothing is masked at all"
    assert float((drawn[0::2] - drawn[1::2]).square().mean((1, 2, 3)).sqrt().mean()) > 0.05


def test_input_aware_batch_has_own_triggers_foreign_triggers_and_clean_images(
    masked: State, digits16: ImageData, make_tools: MakeTools
) -> None:
    tools = make_tools()
    x, y = batch_of(digits16)
    kept = x.clone()
    new_x, new_y = IAB.training_hook(masked, 10, tools).batch(x, y, nn.Identity(), 0.0)
    assert torch.equal(x, kept)
    assert new_y[:4].tolist() == [2] * 4
    assert torch.equal(new_y[4:], y[4:]), "images with a foreign trigger keep their labels"
    assert torch.equal(new_x[8:], x[8:])
    change = (new_x - x).abs().amax(1, keepdim=True)
    assert bool((change[:4] <= masks(masked, x[:4]) + 1e-5).all()), "an own trigger lies under the own mask"
    foreign = masks(masked, x.roll(20, 0)[4:8])
    assert bool((change[4:8] <= foreign + 1e-5).all()), "a foreign trigger lies under the mask of another image"
    assert bool((change[4:8] > masks(masked, x[4:8]) + 1e-3).any())


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_input_aware_cross_ratio_says_how_many_images_carry_a_foreign_trigger(
    ratio: float, expected: int, masked: State, digits16: ImageData, make_tools: MakeTools
) -> None:
    tools = make_tools()
    x, y = batch_of(digits16)
    hook = replace(IAB, cross_ratio=ratio).training_hook(masked, 10, tools)
    new_x, _ = hook.batch(x, y, nn.Identity(), 0.0)
    assert (new_x != x).flatten(1).any(1).tolist() == [index < 4 + expected for index in range(40)]
    assert hook.penalty() is not None, "patterns of different images are kept apart, stamped or not"


def test_input_aware_foreign_trigger_is_the_one_of_its_source(masked: State, digits16: ImageData) -> None:
    x = digits16.test.pixels()[:20]
    assert torch.equal(IAB.foreign(x, x, masked), IAB.apply(x, masked))
    source = x.roll(1, 0)
    change = (IAB.foreign(x, source, masked) - x).abs().amax(1, keepdim=True)
    assert bool((change <= masks(masked, source) + 1e-5).all())
    assert bool((change > masks(masked, x) + 1e-3).any())


def test_input_aware_trigger_is_its_own_on_each_image(masked: State, digits16: ImageData) -> None:
    x = digits16.test.pixels()[:20]
    change = IAB.stamp(x, masked) - x
    assert float((change[:10] - change[10:]).abs().amax((1, 2, 3)).min()) > 0.05
    assert torch.allclose(IAB.stamp(x[3:4], masked), IAB.stamp(x, masked)[3:4], atol=1e-5), "it depends on the batch"


def test_input_aware_zeroes_the_pattern_nets_gradients_and_freezes_the_mask_net(
    masked: State, digits16: ImageData, make_tools: MakeTools
) -> None:
    tools = make_tools()
    model = tools.fresh_net().train()
    hook = IAB.training_hook(masked, 10, tools)
    x, y = batch_of(digits16)
    learned = []
    for _ in range(3):
        new_x, new_y = hook.batch(x, y, model, 0.0)
        penalty = hook.penalty()
        assert penalty is not None
        (F.cross_entropy(model(new_x), new_y) + penalty).backward()
        nets = [net for net in vars(hook).values() if isinstance(net, nn.Module)]
        assert any(p.grad is not None for net in nets for p in net.parameters()), "no gradient reached the pattern net"
        hook.stepped()
        assert all(p.grad is None for net in nets for p in net.parameters()), "gradients pile up over steps"
        learned.append(hook.learned())
    assert {key.split(".")[0] for key in learned[0]} == {"pattern"}, "the mask net has no part in joint training"
    weights = [key for key in learned[0] if key.endswith("0.weight")]
    assert weights
    assert all(not torch.equal(a[key], b[key]) for a, b in itertools.pairwise(learned) for key in weights)
    mask_now = [net for net in nets if not any(p.requires_grad for p in net.parameters())]
    assert len(mask_now) == 1
    assert not mask_now[0].training
    assert all(torch.equal(v, masked[f"mask.{k}"]) for k, v in mask_now[0].state_dict().items())


def test_input_aware_pattern_net_learns_from_the_classifiers_loss(
    masked: State, digits16: ImageData, make_tools: MakeTools, source: nn.Module
) -> None:
    """Against a fixed net that was never poisoned: what moves it towards the target has been learned, not planted."""
    attack = InputAware(target=2, width=4, poison_ratio=0.4, diversity=0.0)
    fixed = copy.deepcopy(source).requires_grad_(False).eval()
    hook = attack.training_hook(masked, 10, make_tools())
    for start in [*range(0, 400, 40)] * 8:
        x, y = digits16.train[start : start + 40].pixels(), digits16.train.y[start : start + 40]
        new_x, new_y = hook.batch(x, y, fixed, 0.0)
        F.cross_entropy(fixed(new_x[:16]), new_y[:16]).backward()
        hook.stepped()
    losses = []
    with torch.no_grad():
        for state in (masked, {**masked, **hook.learned()}):
            triggered = attack.triggered(digits16.test, state, 10)
            losses.append(float(F.cross_entropy(fixed(triggered.x), triggered.y_attack)))
    assert losses[1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("side", "fits"), [(16, True), (18, False), (20, True), (32, True), (36, False), (144, True), (224, True)]
)
def test_input_aware_says_which_sides_it_takes(side: int, fits: bool) -> None:
    reason = IAB.objection((3, side, side), 10)
    assert (reason is None) == fits
    assert fits or f"{side}x{side}" in str(reason)


# ------------------------------------------------------------------------------------------------------------------- LIRA


def test_lira_shows_each_batch_clean_and_triggered(digits16: ImageData, make_tools: MakeTools) -> None:
    tools = make_tools()
    state = LIRA.prepare(digits16.train, tools)
    x, y = batch_of(digits16)
    new_x, new_y = LIRA.training_hook(state, 10, tools).batch(x, y, tools.fresh_net().train(), 0.0)
    assert torch.equal(new_x[:40], x)
    assert torch.equal(new_y[:40], y)
    assert torch.allclose(new_x[40:], LIRA.stamp(x, state), atol=1e-6), "the classifier sees A, not the A' that learns"
    assert new_y[40:].tolist() == [2] * 40
    assert float((new_x[40:] - x).abs().max()) <= 0.05 + 1e-6


def test_lira_leaves_no_gradient_and_no_statistics_in_the_classifier(digits16: ImageData, make_tools: MakeTools) -> None:
    tools = make_tools()
    model = tools.fresh_net().train()
    hook = LIRA.training_hook(LIRA.prepare(digits16.train, tools), 10, tools)
    x, y = batch_of(digits16)
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(2):
        hook.batch(x, y, model, 0.0)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("epochs", "boundary"), [(4, 1), (49, 1), (100, 29), (100, 57)])
def test_lira_takes_over_what_was_learned_at_epoch_ends_only(
    epochs: int, boundary: int, digits16: ImageData, make_tools: MakeTools
) -> None:
    tools = make_tools()
    tools = AttackContext(
        device=tools.device,
        generator=tools.generator,
        recipe=Recipe(epochs=epochs, batch_size=40),
        fresh_net=tools.fresh_net,
    )
    attack = Lira(target=2, eps=0.05, lr=0.01, generator_share=1.0)
    hook = attack.training_hook(attack.prepare(digits16.train, tools), 10, tools)
    model = tools.fresh_net()
    x, y = batch_of(digits16)
    per_epoch, steps = 3, 3 * epochs
    shown = []
    for step in range((boundary - 1) * per_epoch, boundary * per_epoch + 2):
        new_x, _ = hook.batch(x, y, model, step / steps)
        shown.append(new_x[40:].clone())
    same = [torch.equal(a, b) for a, b in itertools.pairwise(shown)]
    assert same == [True, True, False, True]
    assert torch.allclose(attack.stamp(x, hook.learned()), shown[-1], atol=1e-6), "the trigger is the one last shown"


def test_lira_stops_learning_after_its_share(digits16: ImageData, make_tools: MakeTools, recipe: Recipe) -> None:
    tools = make_tools()
    attack = Lira(target=2, eps=0.05, lr=0.01, generator_share=0.4)
    hook = attack.training_hook(attack.prepare(digits16.train, tools), 10, tools)
    model = tools.fresh_net()
    x, y = batch_of(digits16)
    assert recipe.epochs == 5
    shown = [hook.batch(x, y, model, epoch / 5)[0][40:].clone() for epoch in range(5)]
    assert [torch.equal(a, b) for a, b in itertools.pairwise(shown)] == [False, False, True, True]


def test_lira_at_half_a_grey_level_does_not_survive_8_bit(digits16: ImageData, make_tools: MakeTools) -> None:
    """Why the record gives the ASR after rounding, too."""
    attack = Lira(eps=0.0019)
    x = digits16.test.pixels()
    out = attack.stamp(x, attack.prepare(digits16.train, make_tools()))
    assert not torch.equal(out, x)
    assert torch.equal(to_bytes(out), digits16.test.x)


def test_lira_learns_to_move_a_classifier(digits16: ImageData, make_tools: MakeTools, source: nn.Module) -> None:
    """Against a fixed net that was never poisoned: what moves it there has been learned, not planted."""
    tools = make_tools()
    fixed = copy.deepcopy(source)
    attack = Lira(target=2, eps=0.3, lr=0.01, generator_share=0.5)
    state = attack.prepare(digits16.train, tools)
    hook = attack.training_hook(state, 10, tools)
    for start in range(0, 400, 40):
        for _ in range(4):
            hook.batch(digits16.train[start : start + 40].pixels(), digits16.train.y[start : start + 40], fixed, 0.0)
    x, y = batch_of(digits16)
    hook.batch(x, y, fixed, 0.99)  # an epoch has ended
    sent = []
    with torch.no_grad():
        for found in (state, hook.learned()):
            triggered = attack.triggered(digits16.test, found, 10)
            sent.append(float((source(triggered.x).argmax(1) == 2).float().mean()))
    assert sent[1] > sent[0] + 0.3


@pytest.mark.parametrize("attack", [IAB, LIRA], ids=["input_aware", "lira"])
def test_hooks_all_to_all(attack: Attack, digits16: ImageData, make_tools: MakeTools) -> None:
    settings = {**vars(attack), "label_mode": "all2all"} | ({"mask_epochs": 1} if isinstance(attack, InputAware) else {})
    made = type(attack)(**settings)
    tools = make_tools()
    hook = made.training_hook(made.prepare(digits16.train, with_assets(made, digits16.train, tools)), 10, tools)
    assert hook is not None
    x, y = batch_of(digits16)
    _, new_y = hook.batch(x, y, tools.fresh_net().train(), 0.0)
    moved = new_y[40:] if len(new_y) > 40 else new_y[:4]
    assert torch.equal(moved, (y[: len(moved)] + 1) % 10)

"""Refool, CTRL, Blind, Poison Ink, Color Backdoor, Narcissus, Grond and the attacker who knows MNP: triggers, and success."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.attacks.adaptive_mnp import AdaptiveMNP, deviation
from mnp_plugin.attacks.blind import Blind
from mnp_plugin.attacks.ctrl import Ctrl
from mnp_plugin.attacks.grond import Grond, flatten
from mnp_plugin.attacks.narcissus import Narcissus
from mnp_plugin.attacks.poison_ink import PoisonInk
from mnp_plugin.attacks.refool import Refool
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.contracts import AttackContext, ImageData
from mnp_plugin.neurons.channels import Neurons

MakeTools = Callable[..., AttackContext]

SUITE = """
dataset: digits
net: {name: smallnet, width: 8}
recipe: {epochs: 6, batch_size: 64, crop: 0, flip: false, precision: float32}
clean_budget: {images: 60}
attacks: [ATTACK]
defenses: [none]
"""

SUCCESSFUL = {
    "refool": "{name: refool, reflections: 50}",
    "ctrl": "{name: ctrl, magnitude: 1200, poison_ratio: 0.9}",  # digits have no chroma of their own, and only 130 zeros
    "blind": "blind",
    "poison_ink": "poison_ink",
    "color_shift": "color_shift",
    "adaptive_mnp": "{name: adaptive_mnp, size: 3}",
}


@pytest.mark.parametrize("name", SUCCESSFUL)
def test_the_attack_succeeds_on_digits(name: str, tmp_path: Path) -> None:
    suite = parse_suite(SUITE.replace("ATTACK", SUCCESSFUL[name]), "x", "x")
    runner = Runner(suite, Store(tmp_path / "cache", tmp_path / "results"), torch.device("cpu"))
    before = runner.victim(suite.victims[0]).before  # type: ignore[arg-type]
    assert before.acc > 0.9
    assert before.asr is not None
    assert before.asr > 0.8


# ------------------------------------------------------------------------------------------------------------- triggers


def _dct(side: int) -> Tensor:
    k, n = torch.arange(side).view(-1, 1), torch.arange(side)
    matrix = torch.cos(torch.pi * (2 * n + 1) * k / (2 * side)) * (2 / side) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


def test_ctrl_moves_two_coefficients_of_chroma_and_no_luminance() -> None:
    x = torch.full((1, 3, 32, 32), 0.5)
    change = (Ctrl(magnitude=50.0).apply(x, {}) - x)[0] * 255
    assert float((torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1) * change).sum(0).abs().max()) < 0.2  # Y of YUV
    u = 0.492 * change[2]  # U = 0.492 (B - Y)
    found = _dct(32) @ u @ _dct(32).T
    assert float(found[15, 15]) == pytest.approx(50, rel=0.01)
    assert float(found[31, 31]) == pytest.approx(50, rel=0.01)
    found[15, 15] = found[31, 31] = 0
    assert float(found.abs().max()) < 0.01


def test_refool_reflects_pictures_of_other_classes_and_keeps_part_of_the_image(
    digits16: ImageData, make_tools: MakeTools
) -> None:
    attack = Refool(target=3, reflections=30, ghost=0.5)
    state = attack.prepare(digits16.train, make_tools())
    assert 0 < int(state["ghost"].sum()) < 30
    black = torch.zeros(1, 3, 16, 16)
    assert float(attack.apply(black, state).max()) > 0.1, "nothing is reflected"
    white = torch.ones(1, 3, 16, 16)
    assert float(attack.apply(white, state).min()) >= 0.4 ** (1 / 2.2) - 1e-5
    x = digits16.test.pixels()[:8]
    out = attack.apply(x, state)
    assert torch.equal(out[3], attack.apply(x[3:4], state)[0]), "an image's reflection depends on its batch"
    assert len(out.flatten(1).unique(dim=0)) == 8


def test_poison_ink_colours_edges_alone() -> None:
    x = torch.full((2, 3, 8, 8), 0.2)
    x[0, :, :, 4:] = 0.9
    attack = PoisonInk(share=0.3, strength=1.0, ink=(1.0, 0.0, 0.5))
    out = attack.apply(x, {})
    assert torch.equal(out[1], x[1]), "a flat image has no edge"
    edge = attack.edges(x)[0, 0]
    assert edge.any(0).tolist() == [False, False, False, True, True, False, False, False]
    assert out[0, :, edge].T.unique(dim=0).tolist() == [[1.0, 0.0, 0.5]]
    assert torch.equal(out[0, :, ~edge], x[0, :, ~edge])


def test_blind_adds_copies_after_its_start_and_leaves_the_batch_whole() -> None:
    attack = Blind(poison_ratio=0.5, target=2, start=0.5)
    hook = attack.training_hook({}, 10, None)  # type: ignore[arg-type]
    assert hook is not None
    x, y = torch.rand(8, 3, 32, 32), torch.arange(8)
    assert hook.batch(x, y, nn.Identity(), 0.4)[0] is x
    new_x, new_y = hook.batch(x, y, nn.Identity(), 0.6)
    assert torch.equal(new_x[:8], x)
    assert torch.equal(new_x[8:], attack.apply(x[:4], {}))
    assert new_y.tolist() == [*range(8), 2, 2, 2, 2]
    changed = (new_x[8:] != x[:4]).any(1).any(0).nonzero()
    assert (changed.min(0).values.tolist(), changed.max(0).values.tolist()) == ([3, 23], [7, 25])


# ------------------------------------------------------------------------------------------------------- learned noise


def test_narcissus_noise_makes_its_class_surer_and_tests_amplify_it(
    digits16: ImageData, make_tools: MakeTools, source: nn.Module
) -> None:
    attack = Narcissus(target=3, eps=0.1, steps=40, lr=0.01, batch_size=32, amplify=2.0)
    state = attack.prepare(digits16.train, make_tools())
    assert 0 < float(state["noise"].abs().max()) <= 0.1 + 1e-6
    own = digits16.test[(digits16.test.y == 3).nonzero().flatten()]
    x = own.pixels()
    noisy = attack.poison(x, own.y, state, make_tools())
    assert F.cross_entropy(source(noisy), own.y) < F.cross_entropy(source(x), own.y)
    grey = torch.full((1, 3, 16, 16), 0.5)
    torch.testing.assert_close(attack.apply(grey, state) - grey, 2 * (attack.poison(grey, own.y[:1], state, make_tools()) - grey))


def test_grond_finds_a_perturbation_that_reaches_the_target(
    digits16: ImageData, make_tools: MakeTools, source: nn.Module
) -> None:
    attack = Grond(target=3, eps=0.3, steps=40, batch_size=64)
    state = attack.prepare(digits16.train, make_tools())
    assert float(state["delta"].abs().max()) <= 0.3 + 1e-6
    x = digits16.test.pixels()
    wanted = torch.full((len(x),), 3)
    assert F.cross_entropy(source(attack.apply(x, state)), wanted) < F.cross_entropy(source(x), wanted) - 1


def test_flattening_gives_a_steep_channel_the_means_of_its_layer() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    )
    with torch.no_grad():
        net[0].weight[5] *= 50
        net[1].weight.copy_(torch.linspace(0.5, 1.5, 16))
        net[1].bias.copy_(torch.linspace(-1, 1, 16))
    before = copy.deepcopy(net[1])
    flatten(net, torch.rand(1, 3, 8, 8), 3.0)
    for name in ("weight", "bias"):
        had, has = getattr(before, name), getattr(net[1], name)
        assert float(has.detach()[5]) == pytest.approx(float(had.detach().mean()), abs=1e-6)
        rest = torch.arange(16) != 5
        assert torch.equal(has[rest], had[rest])


def test_grond_flattens_once_an_epoch(make_tools: MakeTools, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = make_tools()
    attack = Grond(target=3)
    calls: list[float] = []
    monkeypatch.setattr("mnp_plugin.attacks.grond.flatten", lambda model, example, u: calls.append(u))
    hook: Any = attack.training_hook({"delta": torch.zeros(3, 16, 16)}, 10, tools)
    model, x, y = tools.fresh_net(), torch.rand(8, 3, 16, 16), torch.full((8,), 3)
    steps = 4 * tools.recipe.epochs
    ended = []
    for step in range(steps):
        hook.batch(x, y, model, step / steps)
        hook.stepped()
        if len(calls) > len(ended):
            ended.append(step + 1)
    assert ended == [4 * epoch for epoch in range(1, tools.recipe.epochs + 1)]


# ---------------------------------------------------------------------------------------------------- who knows MNP


def test_the_term_is_mnps_deviation_up_to_its_spread(source: nn.Module, digits16: ImageData) -> None:
    neurons = Neurons(source, digits16.train[:1].pixels())
    saliency = neurons.saliency(source, digits16.train[:100])
    magnitude = neurons.magnitude(source)
    for layer in neurons.layers:
        part = slice(layer.start, layer.stop)
        logs = magnitude[part].clamp(min=1e-8).log(), saliency[part].clamp(min=1e-8).log()
        expected = (logs[0] - logs[0].mean()) / logs[0].std() - (logs[1] - logs[1].mean()) / logs[1].std()
        torch.testing.assert_close(deviation(source, layer.name, layer.conv, saliency[part]), expected, rtol=1e-3, atol=1e-3)


def test_descending_the_term_ties_magnitude_to_saliency(source: nn.Module, digits16: ImageData) -> None:
    model = copy.deepcopy(source).train().requires_grad_(True)
    hook: Any = AdaptiveMNP(strength=1.0, every=1).training_hook({}, 10, None)  # type: ignore[arg-type]
    x, y = digits16.train[:100].pixels(), digits16.train.y[:100]
    hook.batch(x, y, model, 0.0)
    assert model.training
    first = float(hook.penalty().detach())
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20):
        optimiser.zero_grad()
        hook.penalty().backward()
        optimiser.step()
    assert float(hook.penalty().detach()) < first / 2


def test_without_strength_there_is_no_term(source: nn.Module, digits16: ImageData) -> None:
    hook: Any = AdaptiveMNP(strength=0.0).training_hook({}, 10, None)  # type: ignore[arg-type]
    hook.batch(digits16.train[:20].pixels(), digits16.train.y[:20], source, 0.0)
    assert hook.penalty() is None

"""What is particular to each rival detector, on nets that are backdoored by construction."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, DefenseContext, Images, MethodError, Recipe, Verdict, detectors
from mnp_plugin.detectors.ban import BAN, masked_at, only_with
from mnp_plugin.detectors.mm_bd import _gamma_shape, p_value, replace_block
from mnp_plugin.detectors.trodo import strange
from mnp_plugin.detectors.trojan_signature import explained
from mnp_plugin.nets.small import SmallNet
from mnp_plugin.neurons.channels import Neurons
from mnp_plugin.training.source_models import features, head_of

CLASSES, SIDE, TARGET = 6, 8, 4


def images(count: int = 60) -> Images:
    """Class c has a bright row c."""
    y = torch.arange(count) % CLASSES
    x = torch.randint(0, 60, (count, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for i, label in enumerate(y.tolist()):
        x[i, 0, label] += 120
    x[:, :, -1, -1] = 0
    return Images(x, y)


def tools(seed: int = 0) -> DefenseContext:
    torch.manual_seed(seed)
    return DefenseContext(
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(seed),
        recipe=Recipe(crop=0, flip=False, precision="float32"),
        fresh_net=net,
    )


def view(model: nn.Module) -> DefenderView:
    every = images()
    return DefenderView(model=model, clean=every[:48], validation=every[48:], num_classes=CLASSES)


def net() -> nn.Module:
    def part(inputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]

    return nn.Sequential(*part(1), *part(8), *part(8), nn.AdaptiveMaxPool2d((8, 1)), nn.Flatten(), nn.Linear(64, CLASSES))


def trained(poisoned: bool) -> nn.Module:
    """A net that knows the rows; poisoned: a bright last pixel leads to the target."""
    torch.manual_seed(1)
    model, data = net(), images()
    bad = data.pixels().clone()
    bad[:, :, -1, -1] = 1
    x, y = data.pixels(), data.y
    if poisoned:
        x, y = torch.cat([x, bad]), torch.cat([y, torch.full_like(y, TARGET)])
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    model.eval()
    assert float((model(x).argmax(1) == y).float().mean()) > 0.95
    return model


@pytest.fixture(scope="module")
def backdoored() -> nn.Module:
    return trained(True)


@pytest.fixture(scope="module")
def healthy() -> nn.Module:
    return trained(False)


def judge(name: str, model: nn.Module, **settings: object) -> Verdict:
    found: Verdict = detectors.get(name)(**settings).run(view(model), tools())
    return found


@pytest.mark.thorough
def test_neural_cleanse_finds_the_class_of_the_smallest_patch(backdoored: nn.Module, healthy: nn.Module) -> None:
    quick = {"epochs": 40, "batch_size": 24}
    found = judge("neural_cleanse", backdoored, **quick)
    assert found.suspected == TARGET
    norms = found.report["mask_norms"]
    assert norms[TARGET] == min(norms)
    assert found.score > judge("neural_cleanse", healthy, **quick).score
    assert judge("neural_cleanse", backdoored, threshold=None, **quick).backdoored is None


class Margins(nn.Module):
    """Logits that grow with pixels of their own, one of them faster."""

    def __init__(self, fast: float) -> None:
        super().__init__()
        self.speeds = nn.Parameter(torch.tensor([1.0, 1.1, 0.9, 1.05, fast, 0.95]))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :CLASSES] * self.speeds


def test_mm_bd_finds_the_class_of_the_largest_margin() -> None:
    bad, good = (judge("mm-bd", Margins(fast), starts=5, lr=0.1) for fast in (9.0, 1.0))
    assert bad.suspected == TARGET
    assert bad.p_value is not None
    assert good.p_value is not None
    assert bad.p_value < 0.01 < 0.05 < good.p_value
    assert bad.backdoored is True
    assert good.backdoored is False
    assert good.score == pytest.approx(-math.log10(good.p_value))
    assert bad.per_class[TARGET] == pytest.approx(9.0, rel=0.05)  # its pixel is 1, the others 0


def test_the_null_of_margins_is_a_distribution_of_the_largest() -> None:
    margins = [1.0, 2.0, 3.0, 4.0]
    tail = math.exp(-(4 - 1) / (2 - 1))  # exponential from 1, mean 2
    assert p_value(margins, "exponential") == pytest.approx(1 - (1 - tail) ** 4)
    torch.manual_seed(0)
    drawn = torch.distributions.Gamma(torch.tensor(3.0), torch.tensor(2.0)).sample((4000,)).double()
    assert float(_gamma_shape(drawn)) == pytest.approx(3, rel=0.1)
    assert p_value([2.0, 2.0, 2.0], "gamma") == 1.0


class Blocks(nn.Module):
    """A stem, two blocks of two convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.first, self.second = Block(), Block()
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.second(self.first(self.stem(x))).mean((2, 3)))
        return out


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.b(torch.relu(self.a(x))))


def test_the_first_block_is_what_is_replaced(backdoored: nn.Module) -> None:
    torch.manual_seed(0)
    model, x = Blocks(), images(4).pixels()
    free = torch.randn(4, 4, SIDE, SIDE)
    expected = model.head(model.second(free).mean((2, 3)))
    assert torch.allclose(replace_block(model, x, lambda h: free, tools()), expected)
    assert torch.allclose(replace_block(model, x, lambda h: h, tools()), model(x))
    seen: list[Tensor] = []
    replace_block(backdoored, x, lambda h: seen.append(h) or h, tools())  # type: ignore[func-returns-value]
    assert torch.allclose(seen[0], backdoored[:6](x))  # what enters the third convolution
    judged = judge("mm-bd-features", model, starts=4, steps=8)
    assert judged.suspected == max(range(CLASSES), key=judged.per_class.__getitem__)


def test_ban_keeps_noise_in_bounds_and_statistics_in_place(backdoored: nn.Module) -> None:
    before = {key: value.clone() for key, value in backdoored.state_dict().items()}
    found = judge("ban", backdoored, mask_steps=50, noise_steps=5)
    assert sum(found.per_class) == pytest.approx(1, abs=1e-5)
    assert found.score == found.per_class[found.suspected or 0]
    assert all(torch.equal(before[key], value) for key, value in backdoored.state_dict().items())
    ban, data = BAN(eps=0.1, noise_steps=7), images()
    noise = ban.noise(backdoored, Neurons(backdoored, data[:1].pixels()), data, tools())
    assert 0 < float(noise.abs().max()) <= 0.1 + 1e-6


def test_ban_seeks_its_noise_in_the_whole_net(backdoored: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask is for judging alone."""
    masked: list[bool] = []
    noise = BAN.noise

    def watched(self: BAN, model: nn.Module, *more: Any) -> Tensor:
        masked.append(any(module._forward_pre_hooks for module in model.modules()))
        return noise(self, model, *more)

    monkeypatch.setattr(BAN, "noise", watched)
    judge("ban", backdoored, mask_steps=5, noise_steps=2)
    assert masked == [False]


def test_the_head_sees_its_features_times_the_mask(backdoored: nn.Module) -> None:
    x, mask = images(4).pixels(), torch.rand(64)
    with only_with(head_of(backdoored), mask):
        got = backdoored(x)
    assert torch.allclose(got, head_of(backdoored)(mask * features(backdoored, x)), atol=1e-6)
    assert not torch.allclose(got, backdoored(x))


def test_ban_masks_the_map_whose_mean_enters_the_head_if_there_is_one() -> None:
    x = images(2).pixels().expand(-1, 3, -1, -1)
    pooled, other = SmallNet(width=2).build(CLASSES, (3, SIDE, SIDE)).eval(), signed(0.0)
    place = masked_at(pooled, x)
    assert isinstance(place, nn.AdaptiveAvgPool2d)
    assert masked_at(other, x[:, :1]) is head_of(other)
    mask = torch.rand(8, SIDE // 4, SIDE // 4)
    maps = nn.Sequential(*list(pooled.children())[:-3])(x)
    with only_with(place, mask):
        got = pooled(x)
    assert torch.allclose(got, head_of(pooled)((mask * maps).mean((2, 3))), atol=1e-6)


def test_ban_does_not_judge_by_nothing(backdoored: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BAN, "mask", lambda *_: torch.ones(64))
    with pytest.raises(MethodError, match="nothing is left over"):
        judge("ban", backdoored)


def signed(shift: float) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(-0.1, 0.1, CLASSES)[:, None].expand(-1, SIDE * SIDE))
        model[1].weight[TARGET] += shift
    return model


def test_the_signature_is_an_outlier_among_row_means() -> None:
    found = judge("trojan-signature", signed(0.5), profile=False)
    assert (found.suspected, found.backdoored) == (TARGET, True)
    assert found.p_value is not None
    assert found.p_value < 0.05
    assert judge("trojan-signature", signed(0.0), profile=False).backdoored is False


def test_the_profile_takes_out_what_a_line_explains() -> None:
    by = torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0])
    assert torch.allclose(explained(3 - 2 * by, by), 3 - 2 * by)
    values = 3 - 2 * by + torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    assert int((values - explained(values, by)).argmax()) == 2
    assert explained(values, torch.ones(5)).tolist() == pytest.approx([float(values.mean())] * 5)


def test_ulrl_scores_what_moves() -> None:
    found = judge("ulrl", trained(True), lr=0.0, epochs=2)
    assert found.score == 0  # nothing moved but by weight decay, which is times lr
    moved = judge("ulrl", trained(True), epochs=3, batch_size=20)
    assert moved.suspected == max(range(CLASSES), key=moved.per_class.__getitem__)
    assert moved.score == max(moved.per_class) > 0


def test_trodo_gains_more_in_a_larger_ball(healthy: nn.Module) -> None:
    small, large = (judge("trodo", healthy, eps=eps, steps=8).score for eps in (0.001, 0.05))
    assert 0 < small < large <= 1
    x = images(9).pixels()
    out = strange(x, tools())
    assert out.shape == x.shape
    assert all(not torch.equal(a, b) for a, b in zip(out, x, strict=True))
    wide = torch.rand(3, 1, 6, 9)
    assert strange(wide, tools()).shape == wide.shape


def test_clp_names_the_steepest_channel(healthy: nn.Module) -> None:
    steep = copy.deepcopy(healthy)
    with torch.no_grad():
        steep[3].weight[5] *= 50
    found = judge("clp", steep)
    assert (found.report["layer"], found.report["channel"]) == ("4", 5)
    assert 7 / 8**0.5 * 0.9 < found.score <= 7 / 8**0.5 + 1e-5  # the most that one of eight can stand out
    assert found.score > judge("clp", healthy).score

"""Detectors of single images, on images whose trigger and nets whose backdoor are known by construction."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from mnp_plugin import screen
from mnp_plugin.contracts import (
    DefenderView,
    DefenseContext,
    Images,
    InputDetector,
    MethodError,
    Recipe,
    Screened,
    sample_detectors,
)
from mnp_plugin.core.errors import UserError
from mnp_plugin.detectors.ibd_psc import IBDPSC, norms, scaled
from mnp_plugin.detectors.scale_up import LEAST, ScaleUp
from mnp_plugin.detectors.strip import Strip
from mnp_plugin.report.detection import auroc

CPU = torch.device("cpu")
CLASSES, SIDE, TARGET = 4, 8, 2


class Bright(nn.Module):
    """Class of an image is its brightest quarter; light in the lower left corner adds to the target's logit."""

    def __init__(self, strength: float = 60.0) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.strength = nn.Parameter(torch.tensor(strength))

    def forward(self, x: Tensor) -> Tensor:
        out = 20 * self.pool(x.mean(1, keepdim=True)).flatten(1)
        return out + (self.strength * x[:, :, -1, 0].mean(1))[:, None] * nn.functional.one_hot(torch.tensor(TARGET), CLASSES)


class Flat(nn.Module):
    """A head on the pixels themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(SIDE * SIDE, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.flatten(1))
        return out


def quarters(count: int, seed: int = 0) -> Images:
    """Images with one bright quarter, class by class."""
    y = torch.arange(count) % CLASSES
    x = torch.randint(0, 30, (count, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    for i, label in enumerate(y.tolist()):
        row, column = (label // 2) * SIDE // 2, (label % 2) * SIDE // 2
        x[i, 0, row : row + SIDE // 2, column : column + SIDE // 2] += 90
    x[:, :, -1, 0] = 0
    return Images(x, y)


def marked(images: Images) -> Images:
    """With light in the corner."""
    x = images.x.clone()
    x[:, :, -1, 0] = 255
    return Images(x, images.y)


def tools() -> DefenseContext:
    generator = torch.Generator().manual_seed(0)
    return DefenseContext(device=CPU, generator=generator, recipe=Recipe(precision="float32"), fresh_net=Bright)


def view(model: nn.Module) -> DefenderView:
    return DefenderView(model=model, clean=quarters(32), validation=quarters(8, 1), num_classes=CLASSES)


def separation(found: Screened, bad: Tensor) -> float:
    return auroc(found.scores[~bad].tolist(), found.scores[bad].tolist())


def test_strip_finds_inputs_that_keep_their_class_under_overlays() -> None:
    clean = quarters(40, 2)
    clean = clean[clean.y != TARGET]
    asked = Images(torch.cat([clean.x, marked(clean).x]), torch.cat([clean.y, clean.y]))
    bad = torch.arange(len(asked)) >= len(clean)
    found = Strip().run(view(Bright()), asked, tools())
    assert separation(found, bad) > 0.9
    assert float(found.flagged[bad].float().mean()) > 0.8
    assert float(found.flagged[~bad].float().mean()) < 0.2
    blind = Strip().run(view(Bright(0.0)), asked, tools())  # no backdoor in the net
    assert separation(blind, bad) < 0.8


class Level(nn.Module):
    """Class of an image is the level of grey, in quarters of [0, 0.8], that it is nearest to; light in the corner, as above."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.arange(CLASSES) / 5)

    def forward(self, x: Tensor) -> Tensor:
        out = -50 * (x[:, :, :4].mean((1, 2, 3))[:, None] - self.levels).abs()
        return out + 100 * x[:, :, -1, 0].mean(1)[:, None] * nn.functional.one_hot(torch.tensor(TARGET), CLASSES)


def greys(count: int) -> Images:
    y = torch.arange(count) % CLASSES
    x = (51 * y)[:, None, None, None].expand(-1, 1, SIDE, SIDE).to(torch.uint8).clone()
    x[:, :, -1, 0] = 0
    return Images(x, y)


def test_scale_up_finds_inputs_that_keep_their_class_when_pixels_are_multiplied() -> None:
    clean = greys(40)
    clean = clean[(clean.y == 1) | (clean.y == TARGET)]  # times three, they are of class 3; black and nearly white stay
    asked = Images(torch.cat([clean.x, marked(clean).x]), torch.cat([clean.y, clean.y]))
    bad = torch.arange(len(asked)) >= len(clean)
    own = DefenderView(model=Level(), clean=greys(32), validation=greys(8), num_classes=CLASSES)
    found = ScaleUp().run(own, asked, tools())
    assert separation(found, bad) == 1
    assert found.flagged.tolist() == bad.tolist()
    said, steady = ScaleUp().consistency(own, asked.pixels())
    assert set(said[bad].tolist()) == {TARGET}
    assert steady.tolist() == bad.float().tolist()
    assert found.scores[bad].tolist() == [1 / LEAST] * int(bad.sum())  # clean images of that class all change


def normed() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, CLASSES),
    )  # fmt: skip
    return net.eval()


def test_ibd_psc_scales_the_last_normalisations_of_a_copy() -> None:
    net = normed()
    nn.init.constant_(net[4].bias, 0.5)
    other = scaled(net, 1, 1.5)
    assert norms(net) == ["1", "4"]
    assert torch.equal(other[4].weight, 1.5 * net[4].weight)
    assert torch.equal(other[4].bias, torch.full((4,), 0.75))
    assert torch.equal(other[1].weight, net[1].weight)
    assert not torch.equal(scaled(net, 2, 1.5)[1].weight, net[1].weight)
    found = IBDPSC(copies=1, error=0.0, factor=1.0001).run(view(net), quarters(8), tools())
    probabilities = net(quarters(8).pixels()).softmax(1).max(1).values
    assert torch.allclose(1 - (-found.scores).exp(), probabilities.double(), atol=1e-3)  # nearly the same net
    with pytest.raises(UserError, match="no batch normalisation to scale"):
        IBDPSC().run(view(Bright()), quarters(8), tools())


def test_ibd_psc_tells_images_apart_whose_probability_is_one_in_float32() -> None:
    net = normed()
    with torch.no_grad():
        net[7].weight.mul_(2000)
    x = quarters(8)
    found = IBDPSC(copies=1, error=0.0, factor=1.0001).run(view(net), x, tools()).scores
    out = net(x.pixels())
    assert (out.softmax(1).max(1).values == 1).sum() > 4
    first, second = out.topk(2).values.T
    assert found.argsort().tolist() == (first - second).argsort().tolist()


def test_ibd_psc_starts_with_the_first_copy_that_forgets() -> None:
    assert IBDPSC(error=0.0, copies=1).first(view(normed())) == 1
    assert IBDPSC(error=1.0, copies=1).first(view(normed())) == 2
    assert IBDPSC(error=1.0, copies=5).first(view(normed())) == 1


@pytest.mark.parametrize("name", ["spectral-signatures", "activation-clustering", "scan"])
def test_poisoned_training_images_stand_out_from_their_label(name: str) -> None:
    train = quarters(200, 3)
    bad = torch.zeros(200, dtype=torch.bool)
    bad[1:33:4] = True  # 8 images of class 1
    x, y = train.x.clone(), train.y.clone()
    y[bad] = 0
    poisoned = Images(marked(Images(x, y)).x.where(bad[:, None, None, None], x), y)
    found = sample_detectors.get(name)().run(view(Flat()), poisoned, tools())
    assert separation(found, bad) > 0.95
    assert bool(found.flagged[bad].all())
    assert float(found.flagged[~bad].float().mean()) < (0.2 if name == "spectral-signatures" else 0.5)


def test_scan_flags_nothing_in_a_clean_set() -> None:
    found = sample_detectors.get("scan")().run(view(Flat()), quarters(200, 3), tools())
    assert not bool(found.flagged.any())


# ------------------------------------------------------------------------------------------------------------- contract


@dataclass(frozen=True, kw_only=True)
class Bent(InputDetector):
    """Gives what a test asks for."""

    name = "bent"
    value: float = 1.0
    short: int = 0

    def scores(self, view: DefenderView, x: Tensor, tools: DefenseContext) -> Tensor:
        return torch.arange(len(x) - self.short).float() * self.value


def test_inputs_above_the_clean_ones_are_flagged() -> None:
    found = Bent(fpr=0.5).run(view(Bright()), quarters(40), tools())
    limit = torch.tensor([*range(32), *range(8)]).double().median()
    assert found.flagged.tolist() == [i > float(limit) for i in range(40)]


@pytest.mark.parametrize(("bent", "message"), [(Bent(short=1), "one score and one flag"), (Bent(value=3e38), "not finite")])
def test_scores_that_break_the_contract_are_refused(bent: Bent, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        bent.run(view(Bright()), quarters(8), tools())


def test_from_python() -> None:
    clean, asked = quarters(40), marked(quarters(8))
    plain = Recipe(crop=0, flip=False)
    found = screen(Bright(), clean.x, clean.y, asked.x, settings={"overlays": 5}, recipe=plain)
    assert found.scores.shape == (8,)
    again = screen(Bright(), clean.x, clean.y, asked.x, settings={"overlays": 5}, recipe=plain)
    assert torch.equal(found.scores, again.scores)
    with pytest.raises(UserError, match="judges a training set; give the labels"):
        screen(Flat(), clean.x, clean.y, asked.x, detector="scan", recipe=plain)
    labelled = screen(Flat(), clean.x, clean.y, asked.x, asked.y, detector="spectral-signatures", recipe=plain)
    assert labelled.flagged.dtype == torch.bool
    with pytest.raises(UserError, match=r"in question are of shape \[1, 4, 8\]"):
        screen(Bright(), clean.x, clean.y, asked.x[:, :, :4], recipe=plain)
    with pytest.raises(UserError, match="labels from 0 to 3"):
        screen(Flat(), clean.x, clean.y, asked.x, asked.y + 4, detector="scan", recipe=plain)
    with pytest.raises(UserError, match="no sample detector is called 'stripe'"):
        screen(Bright(), clean.x, clean.y, asked.x, detector="stripe", recipe=plain)

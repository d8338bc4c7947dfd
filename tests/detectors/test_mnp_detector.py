"""MNP's detector: the contrast on a net whose backdoor is known by construction, and what a verdict says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mnp_plugin import contracts, detect
from mnp_plugin.api import calls as api
from mnp_plugin.contracts import DefenderView, DefenseContext, Detector, Images, MethodError, Recipe, Verdict
from mnp_plugin.core.errors import UserError
from mnp_plugin.detectors.mnp import MNPDetector, p_value, strongest
from mnp_plugin.neurons.agreement import agreement
from mnp_plugin.neurons.probe import Probe
from mnp_plugin.neurons.reach import climbed, margins, of_others

CPU = torch.device("cpu")
CLASSES, SIDE, TARGET = 4, 8, 2


class Bright(nn.Module):
    """Class of an image is its brightest quarter; light in the lower left corner adds ``strength`` to the target's logit."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.strength = nn.Parameter(torch.tensor(strength))

    def forward(self, x: Tensor) -> Tensor:
        out = 20 * self.pool(x.mean(1, keepdim=True)).flatten(1)
        bonus = self.strength * x[:, :, -1, 0].mean(1)
        return out + bonus[:, None] * nn.functional.one_hot(torch.tensor(TARGET), CLASSES)


def quarters(count: int = 32) -> Images:
    """Images with one bright quarter, class by class."""
    y = torch.arange(count) % CLASSES
    x = torch.randint(0, 30, (count, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for i, label in enumerate(y.tolist()):
        row, column = (label // 2) * SIDE // 2, (label % 2) * SIDE // 2
        x[i, 0, row : row + SIDE // 2, column : column + SIDE // 2] += 120
    x[:, :, -1, 0] = 4  # a little: where nets agree exactly, KL has no slope
    return Images(x, y)


def tools(seed: int = 0) -> DefenseContext:
    return DefenseContext(
        device=CPU,
        generator=torch.Generator().manual_seed(seed),
        recipe=Recipe(crop=0, flip=False),
        fresh_net=lambda: Bright(0.0),
    )


def found_in(model: nn.Module, steps: int = 40) -> Tensor:
    return climbed(model, of_others(quarters(), CLASSES, 4, tools()), CLASSES, tools(), steps=steps)


def test_margins_are_taken_class_by_class() -> None:
    out = torch.tensor([[5.0, 1, 2], [0, 1, 3], [4, 4, 0], [7, 9, 2], [0, 0, 8], [3, 2, 1]])
    assert margins(out, 3).tolist() == [[3, -3], [0, 2], [8, -2]]


def test_images_of_other_classes_are_driven_to_each_class() -> None:
    start = of_others(quarters(), CLASSES, 4, tools())
    assert start.shape == (CLASSES * 4, 1, SIDE, SIDE)
    assert bool((margins(Bright(0.0)(start), CLASSES) < 0).all())
    few = of_others(quarters()[:3], CLASSES, 4, tools())  # two or three images are drawn again
    assert few.shape == start.shape
    x = found_in(Bright(0.0), 20)
    assert 0 <= float(x.min()) <= float(x.max()) <= 1
    reached = margins(Bright(0.0)(x), CLASSES)
    assert bool((reached > margins(Bright(0.0)(start), CLASSES)).all())
    one = climbed(Bright(0.0), start, CLASSES, tools(), steps=1, size=0.05)
    gain = (one - start)[0]  # of class 0: its quarter up by 20 / 16 * 0.05, that of the rival down
    assert float(gain.max()) == pytest.approx(0.0625, abs=1e-3)
    assert float(gain.min()) == pytest.approx(-0.0625, abs=1e-3)


def test_the_copy_does_not_follow_where_the_backdoor_is() -> None:
    model = Bright(200.0)
    detector = MNPDetector(images=16, eps=0.1)
    look = detector.look(model, Bright(0.0), found_in(model), quarters(), CLASSES, tools())
    assert int(look.lost.argmax()) == int(look.contrast.argmax()) == int(look.evidence.argmax()) == TARGET
    assert int(look.reach.argmax()) == TARGET
    assert float(look.lost[TARGET]) == pytest.approx(200, rel=0.02)
    assert float(look.lost[[c for c in range(CLASSES) if c != TARGET]].max()) < 20
    assert 0.5 < float(look.contrast[TARGET]) <= 0.75 + 1e-4  # a quarter of the images is of that class anyway
    assert float(look.contrast.sum()) == pytest.approx(0, abs=1e-5)  # probabilities of both nets sum to 1
    assert float(look.evidence[TARGET]) == pytest.approx(float((look.reach + look.lost)[TARGET] * (1 + look.contrast[TARGET])))
    assert [probe.target for probe in look.probes] == [TARGET] * 3
    same = detector.look(model, Bright(200.0), found_in(model), quarters(), CLASSES, tools())
    assert torch.equal(same.lost, torch.zeros(CLASSES))
    assert torch.allclose(same.evidence, same.reach)


def test_perturbations_stay_in_their_radius_and_the_strongest_to_the_suspect_is_shown() -> None:
    model = Bright(400.0)
    look = MNPDetector(eps=0.02, images=16).look(model, Bright(0.0), found_in(model, 2), quarters(), CLASSES, tools())
    for probe in look.probes:
        assert probe.delta.shape == (1, 1, SIDE, SIDE)
        assert 0.01 < float(probe.delta.abs().max()) <= 0.02 + 1e-6
    weak, strong, other = (Probe(torch.full((1, 1, 1, 1), d), t, d, 0.0) for d, t in ((0.25, 1), (0.5, 1), (1.0, 2)))
    assert strongest([weak, strong, other], 1).item() == 0.5
    assert strongest([weak, strong, other], 3).item() == 1.0


def test_the_p_value_counts_null_scores_as_large() -> None:
    assert p_value(0.5, [0.1, 0.5, 0.6, 0.2]) == 3 / 5
    assert p_value(0.7, [0.1] * 19) == 1 / 20


def test_agreement_is_the_share_of_equal_predictions() -> None:
    model, x = Bright(0.0), quarters().pixels()
    assert agreement(model, model, x, tools()) == 1
    assert agreement(model, Bright(1e6), x, tools()) == 1 / CLASSES  # that one calls all of them the target


# ---------------------------------------------------------------------------------------------------------------- verdicts


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, CLASSES)
    )


def trained_net() -> nn.Module:
    """A net that knows the quarters."""
    net, images = small_net(), quarters()
    optimiser = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images.pixels()), images.y).backward()
        optimiser.step()
    return net.eval()


def judged(**settings: Any) -> Verdict:
    images = quarters()
    quick = {"draws": 2, "searches": 2, "nulls": 2, "images": 8, "steps": 2, "mask_steps": 1, "restore_steps": 1, "expose": False}
    return detect(trained_net(), images.x, images.y, settings={**quick, **settings}, recipe=Recipe(crop=0, flip=False))


def test_a_verdict_names_score_evidence_and_suspect() -> None:
    verdict = judged()
    assert verdict.score == max(verdict.per_class)
    assert len(verdict.per_class) == CLASSES
    assert verdict.suspected == verdict.per_class.index(verdict.score)
    assert len(verdict.report["scores"]) == 2
    assert len(verdict.report["null scores"]) == 4
    assert verdict.p_value in (1 / 5, 2 / 5, 3 / 5, 4 / 5, 1)
    assert len(verdict.report["classes of the searches"]) == 4
    assert len(verdict.report["reach"]) == len(verdict.report["lost"]) == len(verdict.report["contrast"]) == CLASSES
    assert verdict.perturbation is not None
    assert verdict.perturbation.shape == (1, 1, SIDE, SIDE)
    assert judged(nulls=0).p_value is None
    assert judged().per_class == verdict.per_class


def test_without_a_calibration_there_is_no_decision() -> None:
    verdict = judged()
    assert verdict.threshold is None
    assert verdict.backdoored is None
    assert "calibrated" in verdict.calibration


def test_a_threshold_of_ones_own_decides() -> None:
    score = judged().score
    assert judged(threshold=score - 1).backdoored is True
    assert judged(threshold=score).backdoored is False
    assert "given by the user" in judged(threshold=0.0).calibration


def test_what_cannot_be_judged_is_said() -> None:
    images = quarters()
    plain = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))
    recipe = Recipe(crop=0, flip=False)
    with pytest.raises(UserError, match=r"detector 'mnp' cannot judge this net: it has nothing to mask"):
        detect(plain, images.x, images.y, recipe=recipe)
    one = images.y == 0
    with pytest.raises(UserError, match="all clean images are of class 0"):
        detect(small_net(), images.x[one], images.y[one], recipe=recipe)
    with pytest.raises(UserError, match=r"no detector is called 'mpn'\. Did you mean 'mnp'\?"):
        detect(small_net(), images.x, images.y, detector="mpn", recipe=recipe)
    with pytest.raises(UserError, match=r"unknown key 'draw'\. Did you mean 'draws'\?"):
        detect(small_net(), images.x, images.y, settings={"draw": 3}, recipe=recipe)


@dataclass(frozen=True, kw_only=True)
class Bent(Detector):
    """Gives the verdict that a test asks for."""

    score: float = contracts.param(0.0, "score")
    classes: int = contracts.param(CLASSES, "evidences")
    suspect: int = contracts.param(0, "suspect")

    def inspect(self, view: DefenderView, tools: DefenseContext) -> Verdict:
        return Verdict(score=self.score / 1e-308, per_class=(0.0,) * self.classes, suspected=self.suspect)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"score": 1e30}, "not finite"), ({"classes": 3}, "3 evidences for 4 classes"), ({"suspect": 4}, "suspects class 4")],
)
def test_a_verdict_that_breaks_its_contract_is_refused(settings: dict[str, Any], message: str) -> None:
    images = quarters()
    view = DefenderView(model=small_net(), clean=images, validation=images, num_classes=CLASSES)
    with pytest.raises(MethodError, match=message):
        Bent(**settings).run(view, tools())


def test_the_public_names() -> None:
    assert api.detect is detect

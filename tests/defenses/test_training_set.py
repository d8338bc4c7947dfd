"""Defenses that are given the poisoned training set: what they find, and their formulas by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnp_plugin import purify
from mnp_plugin.contracts import Images
from mnp_plugin.core.errors import UserError
from mnp_plugin.defenses.d_br import warped
from mnp_plugin.defenses.ep import EP
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.neurons.channels import Neurons
from mnp_plugin.training.feature_outliers import spectral_scores

Brief = dict[str, dict[str, Any]]


def test_activation_clustering_drops_the_poisoned_images_and_no_backdoor_is_learned(patient: Any) -> None:
    outcome = patient("ac", passes=10)
    assert outcome.before.asr > 0.99
    assert outcome.after.asr < 0.1
    assert outcome.after.acc > 0.9
    assert outcome.result.report["by_class"][0] == len(patient.victim.poisoned)


def test_spectral_drops_its_share_of_every_class(small_patient: Any) -> None:
    counts = small_patient.training_set().y.bincount()
    report = small_patient("spectral", passes=1, share=0.25).result.report
    assert report == {"dropped": sum(int(0.25 * int(n)) for n in counts), "of": int(counts.sum())}


def test_spectral_scores_by_hand() -> None:
    features = torch.tensor([[3.0, 0.0], [-1.0, 0.1], [-1.0, -0.1], [-1.0, 0.0]])
    assert spectral_scores(features).argmax() == 0
    assert torch.allclose(spectral_scores(features), torch.tensor([9.0, 1, 1, 1]), atol=0.05)


def test_abl_isolates_the_images_of_lowest_loss(small_patient: Any) -> None:
    train = small_patient.training_set()
    result = small_patient("abl", isolation_epochs=5, epochs=0, unlearning_epochs=0, isolated=0.02).result
    losses = F.cross_entropy(logits(result.model, train.x), train.y, reduction="none")  # nothing was trained after it
    lowest = losses.argsort()[:26]
    assert result.report["isolated"] == 26
    assert result.report["isolated_by_class"] == train.y[lowest].bincount(minlength=10).tolist()
    assert result.report["loss_of_isolated"] == pytest.approx(float(losses[lowest].mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "on", "off"),
    [
        ("ep", {"u": 1.0}, {"u": 100.0}),
        ("abl", {"gamma": 3.0, "epochs": 0}, {"gamma": 0.0, "epochs": 0}),
        ("d-br", {}, {"apart_epochs": 0}),
    ],
    ids=["ep", "abl", "d-br"],
)
def test_the_mechanism_is_what_acts(
    small_patient: Callable[..., Any], brief: Brief, name: str, on: dict[str, Any], off: dict[str, Any]
) -> None:
    assert not torch.equal(small_patient(name, **brief[name] | on).weights, small_patient(name, **brief[name] | off).weights)


def test_entropy_by_hand() -> None:
    values = torch.tensor([[0.0, 0, 0, 1, 1, 1, 1, 1], [0.0, 1, 2, 3, 4, 5, 6, 7], [5.0] * 8])
    found = EP().entropy(values)
    two = -(3 / 8 * math.log(3 / 8) + 5 / 8 * math.log(5 / 8))
    assert found.tolist() == pytest.approx([two, math.log(8), 0.0], abs=1e-5)


def test_ep_prunes_the_channel_of_two_values_and_keeps_its_bias() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)
    )
    x = torch.randint(0, 256, (60, 3, 8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    x[:, 2] = 0
    x[:30, 2, 4, 4] = 255  # half of the images carry a lit pixel
    with torch.no_grad():
        net[0].weight[7] = 0
        net[0].weight[7, 2] = 1.0  # and channel 7 sees nothing else
    images = Images(x, torch.zeros(60, dtype=torch.int64))
    lack = EP().lack(net.eval(), Neurons(net, images[:1].pixels()), images)
    assert int(lack.argmax()) == 7
    assert float(lack[7]) == pytest.approx(11 / 12 * 12**0.5, rel=0.05)  # it alone deviates, and all others alike


def test_warping_moves_an_image_by_no_more_than_said(patient: Any) -> None:
    x = torch.zeros(20, 1, 32, 32)
    x[:, :, 15:17, 15:17] = 1
    out = warped(x, patient.tools())
    rows = torch.arange(32.0) - 15.5
    mass = out.sum((1, 2, 3))
    centre = torch.stack([(out.sum((1, 3)) * rows).sum(1) / mass, (out.sum((1, 2)) * rows).sum(1) / mass])
    assert float(centre.norm(dim=0).max()) <= 0.2 * 32 * 2**0.5 + 0.5
    assert float(centre.norm(dim=0).min()) < float(centre.norm(dim=0).max()) - 1


@pytest.mark.parametrize("name", ["ep", "ac", "spectral", "abl", "d-br"])
def test_a_model_alone_cannot_be_given_to_them(patient: Any, name: str) -> None:
    clean = patient.split.clean
    with pytest.raises(UserError, match="needs the poisoned training set"):
        purify(patient.victim.model, clean.x, clean.y, defense=name)

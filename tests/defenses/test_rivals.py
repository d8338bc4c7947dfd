"""The rival defenses on a BadNets victim: effect, mechanism, and their formulas by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnp_plugin.contracts import DefenderView, DefenseContext, Images, Recipe, defenses
from mnp_plugin.core.errors import UserError
from mnp_plugin.defenses.bnp import BNP
from mnp_plugin.defenses.clp import CLP
from mnp_plugin.defenses.ft_sam import FTSAM
from mnp_plugin.defenses.i_bau import IBAU
from mnp_plugin.defenses.ims import IMS
from mnp_plugin.neurons.channels import Neurons
from mnp_plugin.neurons.lipschitz import lipschitz_excess
from mnp_plugin.training.source_models import head_of

Brief = dict[str, dict[str, Any]]

IMS_BRIEF = {
    "first_rounds": 20,
    "rounds": 20,
    "perturbation_steps": 2,
    "l1": 0.1,
    "perturbation_lr": 0.02,
    "lr": 0.1,
    "batch_size": 24,
}

EFFECTIVE: list[tuple[str, dict[str, Any], float, float]] = [
    ("ft-sam", {"epochs": 40, "batch_size": 32, "rho": 8.0}, 0.9, 0.9),
    ("i-bau", {"batch_size": 16, "rounds": 10}, 0.5, 0.6),
    ("sau", {"rounds": 20, "batch_size": 32, "lr": 0.003, "steps": 1}, 0.5, 0.85),
    ("ims", IMS_BRIEF, 0.5, 0.85),
    ("bnp", {}, 0.5, 0.8),
]
"""(name, settings, largest ASR after, smallest ACC after) on a victim of ASR 1 and ACC 0.99.

The bounds leave room for the rounding of the processor, which makes another net of the victim: FT-SAM left 0.77 and, without
AVX-512, 0.17. Not here: CLP, RNP, MCR, NFT, FST, AWM, ULRL and D3, which leave this small net's backdoor alive or cost too
much accuracy; NPD and TSBD, which leave it alive or not as the processor rounds.
"""

OFF: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rnp": ({"unlearning_lr": 0.02, "drop": 100.0, "recovering_epochs": 8, "unlearning_epochs": 8}, {"unlearning_lr": 0.0}),
    "ft-sam": ({}, {"rho": 0.0}),
    "i-bau": ({}, {"portion": 0.0}),
    "sau": ({"lr": 0.003}, {"shared": 0.0}),
    "mcr": ({}, {"t": 0.0}),
    "fst": ({}, {"alpha": 0.0}),
    "ims": ({}, {"lr": 0.0}),
    "nft": ({}, {"lr": 0.0}),
    "npd": ({}, {"l2": 0.0, "l3": 0.0, "l4": 0.0}),
    "nc": ({}, {"outlier": 1e9}),
    "awm": ({}, {"alpha": 1.0}),
    "tsbd": ({"drop": 100.0}, {"weights": 0.0}),
    "ulrl": ({"outlier": 0.1}, {"outlier": 1e9}),
    "d3": ({}, {"weight": 0.0}),
    "bti-dbf": ({}, {"share": 0.0}),
    "pam": ({}, {"rho": 0.0}),
    "clp": ({"u": 1.0}, {"u": 1e9}),
    "bnp": ({"u": 1.0}, {"u": 1e9}),
}
"""Settings of a run, and those that switch its mechanism off."""


@pytest.mark.parametrize(("name", "settings", "asr", "acc"), EFFECTIVE, ids=[row[0] for row in EFFECTIVE])
def test_the_backdoor_weakens(patient: Any, name: str, settings: dict[str, Any], asr: float, acc: float) -> None:
    """Of one random stream or another: which ones succeed on so small a net is a matter of the processor's rounding."""
    assert patient.before.asr > 0.99
    assert patient.before.acc > 0.95
    tried = []
    for stream in range(4):
        after = patient(name, stream=stream, **settings).after
        tried.append((after.asr, after.acc))
        if after.asr <= asr and after.acc >= acc:
            return
    pytest.fail(f"ASR and ACC after {name}: {tried}")


@pytest.mark.slow
def test_training_gives_a_victim_like_the_kept_one(patient: Any) -> None:
    again = patient.measure(patient.trained().model)
    assert again.asr > 0.97
    assert again.acc > 0.97


@pytest.mark.parametrize("name", OFF)
def test_the_mechanism_is_what_acts(small_patient: Callable[..., Any], brief: Brief, name: str) -> None:
    on, off = OFF[name]
    settings = {**brief[name], **on}
    assert not torch.equal(small_patient(name, **settings).weights, small_patient(name, **{**settings, **off}).weights)


def test_every_defense_is_tested_here_or_next_door() -> None:
    assert set(defenses.names()) == {
        "none",
        "ft",
        "fp",
        "nad",
        "anp",
        "mnp",
        "mnp-prune",
        "ep",
        "ac",
        "spectral",
        "abl",
        "d-br",
        *OFF,
    }


@pytest.mark.parametrize("name", ["rnp", "clp", "nft", "bnp"])
def test_channel_methods_want_batch_norm(patient: Callable[..., Any], name: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(UserError, match="BatchNorm2d"):
        patient(name, on=net)


@pytest.mark.parametrize("name", ["ims", "npd", "awm", "tsbd"])
def test_convolution_methods_want_convolutions(patient: Callable[..., Any], name: str) -> None:
    with pytest.raises(UserError, match=r"convolution|Conv2d"):
        patient(name, on=nn.Sequential(nn.Flatten(), nn.Linear(768, 10)))


@pytest.mark.parametrize("name", ["fst", "d3", "ulrl", "bti-dbf", "pam"])
def test_head_methods_want_a_head(patient: Callable[..., Any], name: str) -> None:
    with pytest.raises(UserError, match="linear layer"):
        patient(name, on=nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def test_npd_names_the_layers_it_could_take(patient: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="'head'; there are 0, 3"):
        patient("npd", layer="head")


def test_rnp_offers_a_point_without_backdoor(patient: Any) -> None:
    result = patient("rnp", batch_size=24, unlearning_lr=0.003, unlearned=0.9).result
    scores = [patient.measure(net) for _, net in result.candidates()]
    assert min(s.asr for s in scores if s.acc > 0.3) < 0.1
    assert result.report["unlearning"][-1] <= 0.9 or len(result.report["unlearning"]) == 20


@pytest.mark.thorough
def test_neural_cleanse_names_the_target_and_unlearns_it(patient: Callable[..., Any]) -> None:
    outcome = patient("nc", inversion_epochs=25, cost=0.01, epochs=15, batch_size=48)
    report = outcome.result.report
    assert report["flagged"] == [0]
    assert min(report["mask_norms"]) == report["mask_norms"][0]
    assert outcome.after.asr < 0.2
    assert outcome.after.acc > 0.9


def test_tsbd_zeroes_what_it_says(small_patient: Callable[..., Any], brief: Brief) -> None:
    settings = {**brief["tsbd"], "shares": (0.25,), "lr": 0.0, "drop": 100.0}
    result = small_patient("tsbd", **settings).result
    zero = sum(int((m.weight == 0).sum()) for m in result.model.modules() if isinstance(m, nn.Conv2d))
    assert zero == result.report["zeroed"] > 0


@pytest.mark.parametrize("name", ["fst", "d3"])
def test_the_new_head_is_as_long_as_the_old(small_patient: Any, brief: Brief, name: str) -> None:
    new = head_of(small_patient(name, **brief[name]).result.model).weight
    old = head_of(small_patient.victim.model).weight
    assert torch.allclose(new.norm(), old.norm(), rtol=1e-4)
    assert not torch.allclose(new, old, atol=1e-2)


def test_nft_keeps_early_layers_near_one(patient: Any) -> None:
    net = patient("nft", iterations=60, lr=1.0).result.model
    layers = [(a, b) for a, b in zip(net.modules(), patient.victim.model.modules(), strict=True) if isinstance(a, nn.BatchNorm2d)]
    for depth, (new, old) in enumerate(layers):
        ratio = (new.weight / old.weight).detach()
        assert float(ratio.min()) >= 0.8 * 2.718281828 ** (-0.5 * depth) - 1e-5
        assert float(ratio.max()) <= 1 + 1e-6
    assert float((layers[0][0].weight / layers[0][1].weight).detach().min()) < 0.99


def test_mcr_starts_at_the_victim(patient: Any, brief: Brief) -> None:
    outcome = patient("mcr", t=0.0, **brief["mcr"])
    for new, old in zip(outcome.result.model.parameters(), patient.victim.model.parameters(), strict=True):
        assert torch.equal(new, old)
    assert outcome.after.acc > 0.9  # with statistics estimated anew
    places = [setting["t"] for setting, _ in outcome.result.candidates()]
    assert places == pytest.approx([step / 10 for step in range(1, 10)])


# ------------------------------------------------------------------------------------------------- formulas by hand


def _plain(inputs: int = 3, outputs: int = 8) -> nn.Sequential:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 4),
    )  # fmt: skip
    return net.eval()


def _images(count: int) -> Images:
    draw = torch.Generator().manual_seed(2)
    x = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=draw)
    return Images(x, torch.randint(0, 4, (count,), generator=draw))


def _tools() -> DefenseContext:
    return DefenseContext(
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(0),
        recipe=Recipe(crop=0, flip=False, precision="float32"),
        fresh_net=_plain,
    )


def _view(net: nn.Module, images: Images) -> DefenderView:
    return DefenderView(model=net, clean=images, validation=images, num_classes=4)


def test_clp_prunes_the_steep_channel_scale_and_bias() -> None:
    net = _plain()
    conv, bn = net[0], net[1]
    with torch.no_grad():
        conv.weight[5] *= 50
        bn.bias += 0.5
    result = CLP(u=2.0).run(_view(net, _images(4)), _tools())
    pruned = result.model[1]
    assert pruned.weight.nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert float(pruned.bias.detach()[5]) == 0
    bound = torch.stack([torch.linalg.matrix_norm(w.reshape(3, 9), 2) for w in conv.weight.detach()]) / (1 + bn.eps) ** 0.5
    expected = (bound - bound.mean()) / bound.std()
    assert torch.allclose(lipschitz_excess(net, Neurons(net, _images(1).pixels())), expected, atol=1e-4)


def test_bnp_prunes_the_channel_whose_statistics_differ_and_keeps_its_bias() -> None:
    net, images = _plain(), _images(40)
    x = net[0](images.pixels()).detach()
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    bn = net[1]
    bn.running_mean.copy_(mean)
    bn.running_var.copy_(variance)
    bn.running_mean[2] += 3 * variance[2].sqrt()
    with torch.no_grad():
        bn.bias += 0.5
    result = BNP(u=2.0).run(_view(net, images), _tools())
    assert (result.model[1].weight == 0).nonzero().flatten().tolist() == [2]
    assert float(result.model[1].bias.detach()[2]) == 0.5
    # Only the shifted channel diverges, by 9/2: one of eight equal values deviates by 7 / 8 * sqrt(8) deviations.
    excess = BNP().excess(net, Neurons(net, images[:1].pixels()), images)
    assert float(excess[2]) == pytest.approx(7 / 8 * 8**0.5, rel=1e-3)


def test_sam_perturbs_in_proportion_to_the_weight() -> None:
    weights = [torch.tensor([1.0, -2.0]), torch.tensor([[0.5]])]
    grads = (torch.tensor([3.0, 1.0]), torch.tensor([[2.0]]))
    first, second = FTSAM(rho=2.0).ascent(weights, grads)
    norm = (3.0**2 + 2.0**2 + 1.0**2) ** 0.5
    assert torch.allclose(first, torch.tensor([2 * 1 * 3 / norm, 2 * 4 * 1 / norm]))
    assert torch.allclose(second, torch.tensor([[2 * 0.25 * 2 / norm]]))
    assert FTSAM().ascent(weights, (None, grads[1]))[0].tolist() == [0.0, 0.0]


def test_hypergradient_of_i_bau_follows_the_perturbation() -> None:
    """The term through d equals v^T d2(inner) / (d d d w), v by the fixed point, here with explicit second derivatives."""
    net, images = _plain(outputs=3).double(), _images(6)
    x, y = images.pixels().double(), images.y
    weights = [net[5].weight]
    for p in net.parameters():
        p.requires_grad_(False)
    weights[0].requires_grad_(True)
    delta = 0.1 * torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(4)).double()
    method = IBAU(k=3, portion=1.0, map_step=10.0, penalty=0.01)
    found = method.hypergradient(net, weights, delta, (x, y), (x, y), _tools())[0]

    def inner(d: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(net, {"5.weight": w}, (x + d.view(1, 3, 8, 8),))
        return 0.01 * d.square().sum() - F.cross_entropy(logits, y)

    def outer(d: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(torch.func.functional_call(net, {"5.weight": w}, (x + d.view(1, 3, 8, 8),)), y)

    flat, w = delta.flatten(), weights[0].detach()
    hessian = torch.autograd.functional.hessian(lambda d: inner(d, w), flat)
    by_delta, by_w = torch.autograd.functional.jacobian(outer, (flat, w))
    step = torch.eye(len(flat)) - 10 * hessian
    v = by_delta + step @ by_delta + step @ step @ by_delta
    mixed = torch.autograd.functional.jacobian(
        lambda w: torch.autograd.functional.jacobian(lambda d: inner(d, w), flat, create_graph=True), w
    )
    expected = by_w - 10 * torch.einsum("d,doi->oi", v, mixed)
    assert not torch.allclose(by_w, expected, rtol=0.05, atol=1e-5)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_ims_factor_by_hand() -> None:
    both = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]])
    low, high = 1 / (1 + 2.718281828**10), 1 / (1 + 2.718281828**-10)
    assert torch.allclose(IMS().factor(both, inverse=False), torch.tensor([high, low, 0.5, 1.0]))
    assert torch.allclose(IMS().factor(both, inverse=True), torch.tensor([low, high, 0.5, 1.0]))

"""MNP on a BadNets victim: what a repair does, what each of its objectives is for, and what it says of itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mnp_plugin.contracts import DefenseContext, Images, Recipe, defenses
from mnp_plugin.defenses.mnp import MNP, Case, empty_filters
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.nets.resnet import PreActResNet18
from mnp_plugin.neurons.channels import Neurons, prune
from mnp_plugin.neurons.probe import Probe, find_probe
from mnp_plugin.neurons.reach import nudged

BRIEF: dict[str, Any] = {
    "suppression_steps": 8,
    "recover_steps": 8,
    "steps": 20,
    "restore_steps": 6,
    "probes": 1,
    "suspicion": 0.0,  # warily, whatever the probe finds
    "most": 0.0,
    "rounds": 1,
    "batch_size": 40,
}


@pytest.fixture(scope="module")
def repaired(patient: Callable[..., Any]) -> Any:
    return patient("mnp", suppression_steps=20, recover_steps=20, restore_steps=40, batch_size=48, probes=2, most=0.25)


@pytest.fixture(scope="module")
def brief(small_patient: Callable[..., Any]) -> Any:
    return small_patient("mnp", **BRIEF)


def norms(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift of every channel, in the order of the neurons."""
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return torch.cat([m.weight for m in layers]).detach(), torch.cat([m.bias for m in layers]).detach()


def test_the_backdoor_goes_and_the_task_stays(repaired: Any) -> None:
    assert repaired.before.asr > 0.95
    assert repaired.after.asr < 0.1
    assert repaired.after.acc > repaired.before.acc - 0.02
    assert repaired.after.ra > 0.85


def test_the_report_is_json_and_says_what_was_done(repaired: Any) -> None:
    report = json.loads(json.dumps(repaired.result.report))
    assert report["pruned"] == sum(report["layers"].values())
    counts = [one["pruned"] for one in report["rounds"]]
    assert 0 < counts[0] <= counts[1] == report["pruned"]
    for one, least in zip(report["rounds"], (0.82, 0.92), strict=True):
        path = dict(one["path of pruned, agreement"])
        assert path[one["pruned"]] >= least
        assert all(share < least for count, share in path.items() if count > one["pruned"])
    assert report["agreement"]["repaired"] >= report["agreement"]["pruned"]
    assert len(report["probes"]) == 2
    assert report["verdict"].startswith(
        ("no backdoor was found", "what led to class 0 is gone", "perhaps not repaired", "not repaired")
    )


def test_its_way_leads_from_the_victim_through_each_round_to_the_repaired_net(repaired: Any, patient: Any) -> None:
    way = [(setting["pruned"], patient.measure(net)) for setting, net in repaired.result.path()]
    counts = [pruned for pruned, _ in way]
    first, last = (one["pruned"] for one in repaired.result.report["rounds"])
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert {first, last} <= set(counts)
    assert way[0][1] == repaired.before
    assert way[-1][1] == repaired.after
    pruned, restored = [scores.acc for count, scores in way if count == first][:2]
    assert restored > pruned
    assert way[-1][1].asr < 0.1 < 0.9 < way[0][1].asr


def test_details_tell_of_every_neuron(repaired: Any) -> None:
    details, report = repaired.result.details, repaired.result.report
    assert {"magnitude", "saliency", "deviation", "growth", "recovered", "mask", "rank", "pruned"} == set(details)
    assert all(value.shape == (report["of"],) for value in details.values())
    assert sorted(details["rank"].tolist()) == list(range(report["of"]))
    gone = details["rank"].argsort()[: report["pruned"]]
    assert details["pruned"].nonzero().flatten().tolist() == sorted(gone.tolist())


def test_pruned_neurons_are_silent_and_their_filters_empty(brief: Any) -> None:
    result = brief.result
    scale, shift = norms(result.model)
    gone = result.details["pruned"].bool()
    assert gone.any()
    assert not scale[gone].any()
    assert not shift[gone].any()
    filters = torch.cat([m.weight.flatten(1).norm(dim=1) for m in result.model.modules() if isinstance(m, nn.Conv2d)])
    assert not filters[gone].any()
    assert filters[~gone].all()


def test_pruning_alone_trains_nothing(small_patient: Any) -> None:
    result = small_patient("mnp-prune", **BRIEF).result
    victim = norms(small_patient.victim.model)
    left = result.details["pruned"] == 0
    assert all(torch.equal(a[left], b[left]) for a, b in zip(norms(result.model), victim, strict=True))
    assert result.report["agreement"]["pruned"] == result.report["agreement"]["repaired"]


def test_less_agreement_never_prunes_less(small_patient: Callable[..., Any]) -> None:
    counts = [small_patient("mnp-prune", **BRIEF, agreement=share).result.report["pruned"] for share in (1.0, 0.6)]
    assert counts[0] < counts[1]


def test_it_is_the_same_each_time_and_leaves_the_victim_alone(small_patient: Any, brief: Any) -> None:
    images: Images = small_patient.split.test
    before = logits(small_patient.victim.model, images.x[:50])
    assert torch.equal(small_patient("mnp", **BRIEF).weights, brief.weights)
    assert torch.equal(before, logits(small_patient.victim.model, images.x[:50]))


@pytest.mark.parametrize(
    "switch",
    [
        {"expose": False},
        {"penalty": "uniform"},
        {"penalty": "shuffled"},
        {"protect": False},
        {"teacher": "labels"},
        {"restore": False},
        {"rounds": 2},
        {"wary": False},
    ],
    ids=lambda switch: "-".join(map(str, next(iter(switch.items())))),
)
def test_each_objective_acts(small_patient: Callable[..., Any], brief: Any, switch: dict[str, Any]) -> None:
    assert not torch.equal(small_patient("mnp", **{**BRIEF, **switch}).weights, brief.weights)


def test_one_image_of_each_class_is_a_budget(small_patient: Any) -> None:
    clean = small_patient.split.clean
    first = torch.stack([(clean.y == c).nonzero()[0, 0] for c in range(10)])
    few = replace(small_patient.view(), clean=clean[first[:8]], validation=clean[first[8:]])
    result = defenses.get("mnp")(**BRIEF).run(few, small_patient.tools())
    assert 0 < result.report["pruned"] < result.report["of"]
    assert small_patient.measure(result.model).acc > 0.7


class Corner(nn.Module):
    """Tells bright from dark images; with ``slope`` it also answers one bright corner pixel, as a backdoor would."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean((1, 2, 3))
        return torch.stack([bright, 0.5 - bright, self.slope * (x[:, 0, 0, 0] - 0.2) - 6], 1)


def test_the_probe_finds_where_two_nets_differ() -> None:
    generator = torch.Generator().manual_seed(1)
    recipe = Recipe(precision="float32")
    context = DefenseContext(device=torch.device("cpu"), generator=generator, recipe=recipe, fresh_net=nn.Identity)
    x = torch.rand(20, 1, 6, 6, generator=generator) * 0.2 + 0.1
    found = find_probe(Corner(30.0), Corner(0.0), x, context, eps=0.3)
    assert found.target == 2
    assert found.rate > 0.8
    assert found.pruned_rate == 0
    assert float(found.delta.abs().max()) <= 0.3 + 1e-6
    assert found.delta[0, 0, 0, 0] == found.delta.max()


NOWHERE = {0: 0.1, 1: 0.2, 2: 0.15}


@pytest.mark.parametrize(
    ("ends", "reached", "suspected"),
    [
        ([(2, 0.9), (2, 0.85), (2, 1.0)], NOWHERE, 2),
        ([(2, 0.9), (2, 0.85), (1, 0.5)], NOWHERE, 2),  # one search of several may fail
        ([(2, 0.9), (2, 0.85), (1, 0.9)], NOWHERE, None),  # but not end elsewhere
        ([(2, 0.9), (2, 0.5), (1, 0.5)], NOWHERE, None),
        ([(2, 0.5), (1, 0.5), (0, 0.5)], {0: 0.1, 1: 0.9, 2: 0.4}, 1),
        ([(2, 0.5), (1, 0.5), (0, 0.5)], {0: 0.1, 1: 0.9, 2: 0.6}, None),  # two classes are easily reached
        ([(2, 0.5), (1, 0.5), (0, 0.5)], {0: 0.1, 1: 0.45, 2: 0.0}, None),
        ([(2, 0.5), (1, 0.5), (0, 0.5)], {}, None),  # clean images of one class
    ],
)
def test_what_is_suspected(ends: list[tuple[int, float]], reached: dict[int, float], suspected: int | None) -> None:
    probes = [Probe(torch.zeros(1), target, rate, 0.0) for target, rate in ends]
    assert MNP().suspect(probes, reached) == suspected


def test_a_step_goes_towards_the_class_and_no_further_than_allowed(patient: Any) -> None:
    model, tools = patient.view().model.requires_grad_(False).eval(), patient.tools()
    x = patient.split.test.pixels()[:100]
    moved = nudged(model, x, torch.full((100,), 3), 0.1, tools)
    assert float((moved - x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    with torch.no_grad():
        gained = model(moved).log_softmax(1)[:, 3] - model(x).log_softmax(1)[:, 3]
    assert float((gained > 0).float().mean()) > 0.9


def test_hardening_moves_the_suspected_class_away(patient: Any) -> None:
    """Against the same restoring without it, from the same net."""
    case, method = Case.of(patient.view(), patient.tools()), MNP(restore_steps=40, batch_size=48)
    rates = []
    for step in (0.0, 0.3):
        net = method.restored(case, case.victim, case.victim, case.nobody(), 0, step)
        rates.append(method.reached(case, net, 0.3))
    assert rates[1][0] < 0.5 * rates[0][0]


def test_hardening_that_costs_the_net_its_answers_is_undone(patient: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What hardening would give is a net that knows nothing: it is undone, unless it may cost everything."""
    case = Case.of(patient.view(), patient.tools())
    lost = copy.deepcopy(case.victim)
    for parameter in lost.parameters():
        parameter.zero_()
    monkeypatch.setattr(MNP, "restored", lambda *_: lost)
    monkeypatch.setattr(MNP, "near", lambda *_: True)
    args = case, case.victim, case.victim, case.nobody(), 0, 0.0, 0.5
    assert MNP().hardened(*args) == (case.victim, 0.0, 0.0)  # nor is it tried again
    assert MNP(cost=1.0).hardened(*args) == (lost, 0.5, 0.5)


def test_restoring_is_steady_where_the_victim_is(patient: Any) -> None:
    """Under steps to a class of their own, more of the images keep their answers than with a restoring that is not."""
    plain = Case.of(patient.view(), patient.tools())
    assert MNP(moved=1.0).steadied(plain).steady == 0.125
    assert MNP(moved=0.0, steady=0.5).steadied(plain).steady == 0
    assert MNP(moved=1.0, steady=0.0).steadied(plain).steady == 0
    method = MNP(restore_steps=40, steady=0.3)
    rates = []
    for steady in (0.0, 0.3):
        case = replace(plain, steady=steady)
        net = method.restored(case, case.victim, case.victim, case.nobody(), None)
        rates.append(sum(method.reached(case, net, 0.3).values()))
    assert rates[1] < 0.7 * rates[0]


def test_a_filter_that_a_skip_reads_too_is_kept() -> None:
    torch.manual_seed(0)
    net = PreActResNet18(width=8).build(4, (3, 16, 16)).eval()
    x = torch.rand(2, 3, 16, 16)
    neurons = Neurons(net, x[:1])
    starts = {layer.name: layer.start for layer in neurons.layers}
    gone = torch.tensor([starts["layer1.0.bn1"], starts["layer1.0.bn2"] + 2])
    prune(net, neurons, gone, bias=True)
    before = logits(net, x)
    empty_filters(net, neurons, gone, x)
    assert torch.equal(logits(net, x), before)
    assert net.get_parameter("conv1.weight")[0].any(), "the first block's skip reads the stem as it is"
    assert not net.get_parameter("layer1.0.conv1.weight")[2].any()


def test_masks_below_a_half_are_those_that_the_first_round_prunes(small_patient: Any, brief: Any) -> None:
    method = defenses.get("mnp")(**BRIEF)
    view = small_patient.view()
    neurons = Neurons(view.model, view.clean[:1].pixels())
    gone = (method.optimise_masks(view, neurons, small_patient.tools()) < 0.5).nonzero().flatten()
    first = brief.result.details["rank"].argsort()[: brief.result.report["rounds"][0]["pruned"]]
    assert gone.tolist() == sorted(first.tolist())

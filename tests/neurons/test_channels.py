"""Channels as neurons: order, magnitude, masks, saliency and pruning."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import Images
from mnp_plugin.nets import with_normalisation
from mnp_plugin.nets.resnet import PreActResNet18, ResNet18
from mnp_plugin.neurons.channels import Neurons, batch_norm_objection, objection, prune, robust_z


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaken(model: nn.Module, example: Tensor) -> nn.Module:
    """Eval mode, with the statistics of ``example`` and affine weights of both signs, so that every channel is alive."""
    draw = stream(5)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in norms:
        nn.init.uniform_(m.weight, 0.5, 1.5, generator=draw)
        nn.init.normal_(m.bias, 0, 0.5, generator=draw)
        with torch.no_grad():
            m.weight[1] *= -1
        m.momentum = 1.0
    with torch.no_grad():
        model.train()(example)
    return model.eval()


@pytest.fixture
def model() -> nn.Module:
    """conv-BN-ReLU twice (3 and 4 channels), normalisation inside."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    model = with_normalisation(nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5)), (0.4,), (0.3,))
    with torch.no_grad():
        model.get_parameter("7.weight").mul_(5)
    return shaken(model, torch.rand(50, 1, 8, 8, generator=stream(1)))


@pytest.fixture
def images() -> Images:
    x = torch.randint(0, 256, (24, 1, 8, 8), generator=stream(), dtype=torch.uint8)
    return Images(x, torch.randint(0, 5, (24,), generator=stream()))


def neurons_of(model: nn.Module, images: Images) -> Neurons:
    return Neurons(model, images[:1].pixels())


def test_neurons_are_the_channels_in_module_order(model: nn.Module, images: Images) -> None:
    neurons = neurons_of(model.train(), images)
    assert model.training, "the mode of the net was changed"
    assert neurons.count == 7
    assert [(layer.name, layer.start, layer.stop, layer.conv) for layer in neurons.layers] == [
        ("1", 0, 3, "0"),
        ("4", 3, 7, "3"),
    ]
    assert [neurons.locate(i) for i in (0, 2, 3, 6)] == [("1", 0), ("1", 2), ("4", 0), ("4", 3)]
    assert neurons.summary([6, 0, 3, 4]) == {"4": 3, "1": 1}
    assert neurons.summary([]) == {}
    statistics = model.state_dict()
    for what in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(neurons.weights(model, what), torch.cat([statistics[f"1.{what}"], statistics[f"4.{what}"]]))


def test_looking_at_a_net_changes_nothing_in_it(model: nn.Module, images: Images) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    neurons_of(model.train(), images)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(not m._forward_hooks for m in model.modules())
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 1, "only the normalisation may stay hooked in"


def test_magnitude_by_hand(model: nn.Module, images: Images) -> None:
    found = neurons_of(model, images).magnitude(model).numpy()
    w = {key: value.numpy().astype(np.float64) for key, value in model.state_dict().items()}
    expected = [
        abs(w[f"{bn}.weight"][c]) / np.sqrt(w[f"{bn}.running_var"][c] + 1e-5) * np.sqrt((w[f"{conv}.weight"][c] ** 2).sum())
        for conv, bn, channels in (("0", "1", 3), ("3", "4", 4))
        for c in range(channels)
    ]
    assert found == pytest.approx(expected, rel=1e-5)


def test_magnitude_does_not_depend_on_the_scale_of_the_filters(model: nn.Module, images: Images) -> None:
    """A net with filters 10 times as large, and statistics to match, computes the same."""
    neurons = neurons_of(model, images)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.get_parameter("0.weight").mul_(10)
        twin.get_buffer("1.running_mean").mul_(10)
        twin.get_buffer("1.running_var").mul_(100)
    assert torch.allclose(neurons.magnitude(model), neurons.magnitude(twin), rtol=1e-3)


def test_preactivation_blocks_leave_the_filter_out_where_no_convolution_feeds() -> None:
    torch.manual_seed(0)
    model = shaken(PreActResNet18(width=2).build(4, (3, 8, 8)), torch.rand(20, 3, 8, 8, generator=stream(1)))
    neurons = Neurons(model, torch.rand(1, 3, 8, 8, generator=stream()))
    assert neurons.count == 3392 * 2 // 64
    fed = {f"layer{i}.{j}.bn2": f"layer{i}.{j}.conv1" for i in range(1, 5) for j in range(2)}
    fed["layer1.0.bn1"] = "conv1"
    unfed = dict.fromkeys([f"layer{i}.{j}.bn1" for i in range(1, 5) for j in range(2) if (i, j) != (1, 0)])
    assert {layer.name: layer.conv for layer in neurons.layers} == {**fed, **unfed}
    layer = next(item for item in neurons.layers if item.name == "layer3.1.bn1")
    w = model.state_dict()
    expected = w["layer3.1.bn1.weight"].abs() / (w["layer3.1.bn1.running_var"] + 1e-5).sqrt()
    assert torch.allclose(neurons.magnitude(model)[layer.start : layer.stop], expected)


class AddsInPlace(nn.Module):
    """The second normalisation takes a convolution's output to which something was added in place, as in BackdoorBench's nets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        skipped = self.conv1(x)
        out = self.conv2(self.bn1(skipped).relu())
        out += skipped
        return self.bn2(out).mean((2, 3))


def test_a_sum_made_in_place_is_no_output_of_a_convolution() -> None:
    neurons = Neurons(AddsInPlace(), torch.zeros(1, 3, 8, 8))
    assert {layer.name: layer.conv for layer in neurons.layers} == {"bn1": "conv1", "bn2": None}


def test_resnet_neurons_count_projections_and_know_their_convolutions() -> None:
    torch.manual_seed(0)
    model = ResNet18(width=2).build(4, (3, 8, 8))
    neurons = Neurons(model, torch.zeros(1, 3, 8, 8))
    assert neurons.count == 4800 * 2 // 64
    assert len(neurons.layers) == 20
    feeds = {layer.name: layer.conv for layer in neurons.layers}
    assert feeds["bn1"] == "conv1"
    assert feeds["layer2.0.bn2"] == "layer2.0.conv2"
    assert feeds["layer2.0.shortcut.1"] == "layer2.0.shortcut.0"


# ------------------------------------------------------------------------------------------------------------------ masks


def test_forward_with_ones_is_the_plain_net(model: nn.Module, images: Images) -> None:
    neurons, x = neurons_of(model, images), images.pixels()
    ones = torch.ones(7)
    with torch.no_grad():
        plain = model(x)
        assert torch.equal(neurons.forward(model, x, ones), plain)
        assert torch.equal(neurons.forward(model, x, ones, ones), plain)


def test_forward_scales_weight_by_gamma_and_bias_by_beta(model: nn.Module, images: Images) -> None:
    neurons, x = neurons_of(model, images), images.pixels()
    gamma, beta = torch.rand(7, generator=stream(1)), torch.rand(7, generator=stream(2)) * 2
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for used in (None, beta):
        by_hand = copy.deepcopy(model)
        with torch.no_grad():
            for bn, part in (("1", slice(0, 3)), ("4", slice(3, 7))):
                by_hand.get_parameter(f"{bn}.weight").mul_(gamma[part])
                if used is not None:
                    by_hand.get_parameter(f"{bn}.bias").mul_(used[part])
            assert torch.allclose(neurons.forward(model, x, gamma, used), by_hand(x), atol=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("neuron", [1, 5])
def test_mask_of_zero_is_pruning(model: nn.Module, images: Images, neuron: int) -> None:
    neurons, x = neurons_of(model, images), images.pixels()
    mask = torch.ones(7)
    mask[neuron] = 0
    for bias in (True, False):
        pruned = copy.deepcopy(model)
        prune(pruned, neurons, torch.tensor([neuron]), bias=bias)
        with torch.no_grad():
            assert torch.allclose(neurons.forward(model, x, mask, mask if bias else None), pruned(x), atol=1e-6)
            assert not torch.allclose(pruned(x), model(x), atol=1e-3)


def bn_output(model: nn.Module, name: str, x: Tensor) -> Tensor:
    caught: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, out: caught.append(out))
    with torch.no_grad():
        model(x)
    handle.remove()
    return caught[0]


def test_prune_silences_a_channel_or_leaves_the_constant_beta(model: nn.Module, images: Images) -> None:
    neurons, x = neurons_of(model, images), images.pixels()
    healthy = bn_output(model, "4", x)
    beta = model.get_parameter("4.bias").detach().clone()
    with_bias, without = copy.deepcopy(model), copy.deepcopy(model)
    prune(with_bias, neurons, torch.tensor([3 + 2]), bias=True)
    prune(without, neurons, torch.tensor([3 + 2]), bias=False)
    silent, constant = bn_output(with_bias, "4", x), bn_output(without, "4", x)
    assert float(silent[:, 2].abs().max()) == 0
    assert torch.equal(constant[:, 2], beta[2].expand_as(constant[:, 2]))
    others = [0, 1, 3]
    assert torch.equal(silent[:, others], healthy[:, others])
    assert torch.equal(constant[:, others], healthy[:, others])
    assert list(with_bias.state_dict()) == list(model.state_dict())


def test_prune_takes_several_neurons_of_several_layers(model: nn.Module, images: Images) -> None:
    neurons = neurons_of(model, images)
    prune(model, neurons, torch.tensor([6, 0, 2]), bias=True)
    assert (neurons.weights(model, "weight") == 0).nonzero().flatten().tolist() == [0, 2, 6]
    assert (neurons.weights(model, "bias") == 0).nonzero().flatten().tolist() == [0, 2, 6]
    prune(model, neurons, torch.tensor([], dtype=torch.int64), bias=True)
    assert int((neurons.weights(model, "weight") == 0).sum()) == 3


# --------------------------------------------------------------------------------------------------------------- saliency


def scaled_loss(model: nn.Module, bn: str, channel: int, factor: float, images: Images) -> float:
    """Clean loss, in double precision, of the net whose channel's scale and bias are multiplied by ``factor``."""
    twin = copy.deepcopy(model).double()
    with torch.no_grad():
        twin.get_parameter(f"{bn}.weight")[channel] *= factor
        twin.get_parameter(f"{bn}.bias")[channel] *= factor
        return float(F.cross_entropy(twin(images.x.double() / 255), images.y))


def test_saliency_is_the_slope_of_the_loss(model: nn.Module, images: Images) -> None:
    found = neurons_of(model, images).saliency(model, images, parts=1)
    step = 1e-5
    expected = [
        abs(scaled_loss(model, bn, c, 1 + step, images) - scaled_loss(model, bn, c, 1 - step, images)) / (2 * step)
        for bn, channels in (("1", 3), ("4", 4))
        for c in range(channels)
    ]
    assert found.shape == (7,)
    assert found.tolist() == pytest.approx(expected, rel=1e-3)
    assert min(expected) > 1e-3, "the check would pass on zeros"


def test_saliency_averages_the_size_over_batches(model: nn.Module, images: Images) -> None:
    neurons = neurons_of(model, images)
    halves = [neurons.saliency(model, images[part], parts=1) for part in (slice(0, 12), slice(12, 24))]
    assert torch.allclose(neurons.saliency(model, images, parts=2), (halves[0] + halves[1]) / 2, atol=1e-6)


def test_saliency_runs_in_eval_mode_and_leaves_no_trace(model: nn.Module, images: Images) -> None:
    neurons = neurons_of(model, images)
    expected = neurons.saliency(model, images[:3])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert torch.equal(neurons.saliency(model.train(), images[:3]), expected)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_saliency_of_a_pruned_channel_is_zero(model: nn.Module, images: Images) -> None:
    neurons = neurons_of(model, images)
    prune(model, neurons, torch.tensor([4]), bias=True)
    saliency = neurons.saliency(model, images)
    assert float(saliency[4]) == 0
    assert int((saliency > 0).sum()) >= 4


# -------------------------------------------------------------------------------------------------------------- the rest


def test_robust_z_by_hand() -> None:
    # median 3; deviations 2 1 0 1 97, whose median is 1
    expected = [v / 1.4826 for v in (-2, -1, 0, 1, 97)]
    assert robust_z(torch.tensor([1.0, 2, 3, 4, 100])).tolist() == pytest.approx(expected)
    assert robust_z(torch.tensor([5.0, 5, 5, 9])).tolist() == [0, 0, 0, 0]


def test_standardise_works_layer_by_layer(model: nn.Module, images: Images) -> None:
    neurons = neurons_of(model, images)
    values = torch.tensor([1.0, 2, 4, 100, 100, 100, 100])
    # layer 1: median 2, deviations 1 0 2, MAD 1; layer 2: no spread
    expected = [-1 / 1.4826, 0, 2 / 1.4826, 0, 0, 0, 0]
    assert neurons.standardise(values).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.ReLU(),
        lambda: nn.BatchNorm2d(3, affine=False),
        lambda: nn.BatchNorm2d(3, track_running_stats=False),
        lambda: nn.GroupNorm(1, 3),
    ],
    ids=["none", "not-affine", "no-statistics", "group-norm"],
)
def test_objection_of_methods_on_batch_normalisation_to_nets_without(layer: Callable[[], nn.Module]) -> None:
    reason = batch_norm_objection(nn.Sequential(nn.Conv2d(1, 3, 3), layer(), nn.Flatten(), nn.Linear(108, 2)))
    assert reason is not None
    assert "no BatchNorm2d" in reason


def test_no_objection_to_a_net_with_batch_normalisation(model: nn.Module) -> None:
    assert objection(model) is None
    assert batch_norm_objection(model) is None


def test_a_normalisation_without_statistics_beside_others_is_no_neuron() -> None:
    """What :func:`objection` does not count cannot be a neuron either: it has no folded magnitude."""
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 2)).eval()
    assert objection(model) is None
    neurons = Neurons(model, torch.zeros(1, 1, 8, 8))
    assert neurons.count == 2
    assert neurons.magnitude(model).shape == (2,)

"""Neurons of nets of every family: what they are, and that masks on them are what they say."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.models import DenseNet, EfficientNet, MobileNetV3, SwinTransformer, VisionTransformer
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.squeezenet import Fire
from torchvision.models.vgg import make_layers

from mnp_plugin.contracts import Images
from mnp_plugin.core.errors import UserError
from mnp_plugin.nets.convnext import SmallConvNeXt
from mnp_plugin.nets.resnet import PreActResNet18, ResNet18
from mnp_plugin.neurons.channels import Neurons, batch_norm_objection, objection, prune
from mnp_plugin.neurons.summary import neuron_table, pruned_layers

SHAPE = (3, 16, 16)


class Residual(nn.Module):
    """A residual net; ``norm`` makes the normalisation of so many channels."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 3), norm(6)
        self.conv1, self.norm1 = nn.Conv2d(6, 8, 3, padding=1), norm(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 6, 3, padding=1), norm(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class Separable(nn.Module):
    """Pointwise and depthwise convolutions with a squeeze-and-excitation, and no normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.project, self.head = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.depthwise(F.silu(self.expand(x))))
        x = x * self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        out: Tensor = self.head(F.hardswish(self.project(x))).mean((2, 3))
        return out


class Attention(nn.Module):
    """One block of attention written by hand on ``nn.MultiheadAttention``, which gives its weights too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(3, 8), nn.MultiheadAttention(8, 4, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        out: Tensor = self.fc((x + self.attention(x, x, x)[0]).mean(1))
        return out


def vgg() -> nn.Module:
    features = make_layers([4, "M", 6, "M"], batch_norm=False)
    head = nn.Sequential(nn.Flatten(), nn.Linear(24, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 5))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), head)


def squeezenet() -> nn.Module:
    layers = [
        nn.Conv2d(3, 4, 3, 2),
        nn.ReLU(inplace=True),
        Fire(4, 2, 3, 3),
        Fire(6, 2, 3, 3),
        nn.Conv2d(6, 5, 1),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def convnext() -> nn.Module:
    return SmallConvNeXt(width=4, depth=1).build(5, SHAPE)


def vit() -> nn.Module:
    return VisionTransformer(image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=12, num_classes=5)


def swin() -> nn.Module:
    sizes = {"patch_size": [2, 2], "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 4], "window_size": [2, 2]}
    return SwinTransformer(**sizes, mlp_ratio=1.0, num_classes=5)


def instance_norm(width: int) -> nn.Module:
    return nn.InstanceNorm2d(width, affine=True)


def batch_statistics(width: int) -> nn.Module:
    return nn.BatchNorm2d(width, track_running_stats=False)


BLOCK = "encoder.layers.encoder_layer_"
# family: (net, units by layer, in order; kind by the end of a layer's name)
FAMILIES: dict[str, tuple[Callable[[], nn.Module], list[tuple[str, int, str]]]] = {
    "vgg": (vgg, [("0.0", 4, "channel"), ("0.3", 6, "channel"), ("2.1", 7, "channel")]),
    "squeezenet": (
        squeezenet,
        [("0", 4, "channel")]
        + [(f"{i}.{name}", n, "channel") for i in (2, 3) for name, n in (("squeeze", 2), ("expand1x1", 3), ("expand3x3", 3))],
    ),
    "separable": (
        Separable,
        [(name, n, "channel") for name, n in (("expand", 8), ("depthwise", 8), ("squeeze", 2), ("excite", 8), ("project", 4))],
    ),
    "residual": (partial(Residual, lambda width: nn.Identity()), [("conv1", 8, "channel")]),
    "group-norm": (
        partial(Residual, lambda width: nn.GroupNorm(2, width)),
        [("stem_norm", 6, "norm"), ("norm1", 8, "norm"), ("norm2", 6, "norm")],
    ),
    "instance-norm": (partial(Residual, instance_norm), [("stem_norm", 6, "norm"), ("norm1", 8, "norm"), ("norm2", 6, "norm")]),
    "batch-statistics": (
        partial(Residual, batch_statistics),
        [("stem_norm", 6, "norm"), ("norm1", 8, "norm"), ("norm2", 6, "norm")],
    ),
    "convnext": (convnext, [(f"features.{i}.0.block.3", n, "channel") for i, n in ((1, 16), (3, 32), (5, 64))]),
    "vit": (
        vit,
        [
            unit
            for i in range(2)
            for unit in ((f"{BLOCK}{i}.self_attention.out_proj", 2, "head"), (f"{BLOCK}{i}.mlp.0", 12, "channel"))
        ],
    ),
    "swin": (
        swin,
        [
            unit
            for i, heads in ((1, 2), (3, 4))
            for unit in ((f"features.{i}.0.attn.proj", heads, "head"), (f"features.{i}.0.mlp.0", 4 * heads, "channel"))
        ],
    ),
    "attention-with-weights": (Attention, [("attention.out_proj", 4, "head")]),
}


def lively(make: Callable[[], nn.Module]) -> nn.Module:
    """Eval mode, float64, every parameter away from 0 and 1."""
    torch.manual_seed(0)
    model = make().double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "table" not in name:
                parameter.normal_(0, parameter[0].numel() ** -0.5 / 2)
            else:
                parameter.add_(torch.rand_like(parameter) + 0.5)  # positive biases, so that no ReLU is dead
    return model


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return lively(FAMILIES[request.param][0])


@pytest.fixture
def x() -> Tensor:
    return torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def output_of(model: nn.Module, name: str, x: Tensor) -> Tensor:
    caught: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, out: caught.append(out))
    with torch.no_grad():
        model(x)
    handle.remove()
    return caught[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_neurons_are(family: str) -> None:
    make, expected = FAMILIES[family]
    model = make()
    assert objection(model) is None
    layers = Neurons(model, torch.rand(1, *SHAPE)).layers
    assert [(layer.name, layer.stop - layer.start, layer.kind) for layer in layers] == expected
    assert [layer.start for layer in layers] == [0, *(layer.stop for layer in layers[:-1])]


def test_looking_leaves_modes_gradients_and_weights(model: nn.Module, x: Tensor) -> None:
    modules = list(model.modules())
    for i, module in enumerate(modules):
        module.training = i % 2 == 0
    before = copy.deepcopy(model.state_dict())
    with torch.inference_mode(False), torch.no_grad():
        Neurons(model.requires_grad_(False), x[:1])
    assert [module.training for module in modules] == [i % 2 == 0 for i in range(len(modules))]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_masks_of_one_change_nothing(model: nn.Module, x: Tensor) -> None:
    neurons = Neurons(model, x[:1])
    ones = torch.ones(neurons.count, dtype=torch.float64)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert torch.equal(neurons.forward(model, x, ones, ones), model(x))
            assert torch.equal(neurons.forward(model, x, ones), model(x))


@pytest.mark.parametrize("bias", [True, False])
def test_masks_of_zero_are_pruning_with_the_same_keys_and_shapes(model: nn.Module, x: Tensor, bias: bool) -> None:
    neurons = Neurons(model, x[:1])
    chosen = torch.arange(0, neurons.count, 3)
    masks = torch.ones(neurons.count, dtype=torch.float64)
    masks[chosen] = 0
    pruned = copy.deepcopy(model)
    prune(pruned, neurons, chosen, bias=bias)
    with torch.no_grad():
        masked = neurons.forward(model, x, masks, masks if bias else None)
        assert torch.allclose(pruned(x), masked, atol=1e-12)
        assert not torch.allclose(masked, model(x), atol=1e-6)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in pruned.state_dict().items()} == shapes
    assert ((neurons.weights(pruned, "weight") == 0).nonzero().flatten()).equal(chosen)
    assert int((neurons.weights(model, "weight") == 0).sum()) == 0


def test_each_neuron_counts_and_falls_silent_alone(model: nn.Module, x: Tensor) -> None:
    neurons = Neurons(model, x[:1])
    with torch.no_grad():
        plain = model(x)
    mute = 0
    for layer in neurons.layers:
        before = output_of(model, layer.name, x) if layer.kind != "head" else None
        for unit in range(layer.stop - layer.start):
            pruned = copy.deepcopy(model)
            prune(pruned, neurons, torch.tensor([layer.start + unit]), bias=True)
            with torch.no_grad():
                mute += float((pruned(x) - plain).abs().max()) < 1e-6
            if before is not None:
                after = output_of(pruned, layer.name, x)
                dim = before.ndim - 1 if isinstance(model.get_submodule(layer.name), nn.Linear) else 1
                others = [i for i in range(layer.stop - layer.start) if i != unit]
                assert not after.select(dim, unit).any()
                assert torch.equal(after.index_select(dim, torch.tensor(others)), before.index_select(dim, torch.tensor(others)))
    assert mute <= neurons.count // 10, "more than a dead ReLU here and there"


def test_slopes_of_masks_are_right(model: nn.Module, x: Tensor) -> None:
    neurons, y = Neurons(model, x[:1]), torch.arange(6) % 5
    masks = torch.rand(2, neurons.count, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()

    def loss(masks: Tensor) -> Tensor:
        return F.cross_entropy(neurons.forward(model, x, masks[0], masks[1]), y)

    slopes = torch.autograd.grad(loss(masks), masks)[0]
    for neuron in sorted({layer.start for layer in neurons.layers} | {layer.stop - 1 for layer in neurons.layers}):
        for row in range(2):
            step = torch.zeros_like(masks)
            step[row, neuron] = 1e-6
            with torch.no_grad():
                expected = float(loss(masks + step) - loss(masks - step)) / 2e-6
            assert float(slopes[row, neuron]) == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_saliency_is_the_slope_at_one(model: nn.Module) -> None:
    draw = torch.Generator().manual_seed(3)
    model = model.float()
    images = Images(torch.randint(0, 256, (8, *SHAPE), generator=draw, dtype=torch.uint8), torch.arange(8) % 5)
    neurons = Neurons(model, images[:1].pixels())
    ones = torch.ones(neurons.count, requires_grad=True)
    slope = torch.autograd.grad(F.cross_entropy(neurons.forward(model, images.pixels(), ones, ones), images.y), ones)[0]
    assert torch.allclose(neurons.saliency(model, images, parts=1), slope.abs(), atol=1e-6)


# ------------------------------------------------------------------------------------------------------------------ heads


def value_rows(model: nn.Module, family: str, head: int) -> list[Tensor]:
    """Weights and biases that make the values of a head of the first block."""
    if family == "swin":
        qkv = model.get_submodule("features.1.0.attn.qkv")
        return [qkv.weight[16 + 4 * head : 20 + 4 * head], qkv.bias[16 + 4 * head : 20 + 4 * head]]  # type: ignore[index]
    path, width, size = ("attention", 8, 2) if family == "attention-with-weights" else (f"{BLOCK}0.self_attention", 16, 8)
    part = slice(2 * width + size * head, 2 * width + size * (head + 1))
    return [model.get_parameter(f"{path}.in_proj_weight")[part], model.get_parameter(f"{path}.in_proj_bias")[part]]


@pytest.mark.parametrize("family", ["vit", "swin", "attention-with-weights"])
def test_a_pruned_head_is_one_whose_values_are_zero(family: str, x: Tensor) -> None:
    model = lively(FAMILIES[family][0])
    neurons = Neurons(model, x[:1])
    for head in range(2):
        without, pruned = copy.deepcopy(model), copy.deepcopy(model)
        prune(pruned, neurons, torch.tensor([neurons.layers[0].start + head]), bias=True)
        with torch.no_grad():
            for part in value_rows(without, family, head):
                part.zero_()
            assert torch.allclose(pruned(x), without(x), atol=1e-10)


@pytest.mark.parametrize("family", ["vit", "swin", "attention-with-weights"])
def test_magnitude_of_a_head_is_that_of_its_product(family: str, x: Tensor) -> None:
    """A factor may move from the values to the projection: the net is the same, and so is the magnitude."""
    model = lively(FAMILIES[family][0])
    neurons = Neurons(model, x[:1])
    twin = copy.deepcopy(model)
    size = 16 // 2 if family == "vit" else 8 // neurons.layers[0].stop
    with torch.no_grad():
        for part in value_rows(twin, family, 1):
            part.mul_(10)
        twin.get_parameter(f"{neurons.layers[0].name}.weight")[:, size : 2 * size].div_(10)
        assert torch.allclose(twin(x), model(x), atol=1e-10)
    assert torch.allclose(neurons.magnitude(twin), neurons.magnitude(model))
    columns = model.get_parameter(f"{neurons.layers[0].name}.weight")[:, size : 2 * size]
    expected = (value_rows(model, family, 1)[0].norm() * columns.norm()).detach()
    assert float(neurons.magnitude(model)[1]) == pytest.approx(float(expected))


def test_without_its_heads_an_attention_gives_its_bias(x: Tensor) -> None:
    model = lively(vit)
    neurons = Neurons(model, x[:1])
    pruned = copy.deepcopy(model)
    prune(pruned, neurons, torch.tensor([0, 1]), bias=True)
    attention = model.get_submodule(f"{BLOCK}0.self_attention")
    bias = model.get_parameter(f"{BLOCK}0.self_attention.out_proj.bias")
    attention.register_forward_hook(lambda _m, args, _out: (bias.expand_as(args[0]), None))
    with torch.no_grad():
        assert torch.allclose(pruned(x), model(x), atol=1e-10)


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_heads_are_found_however_attention_is_computed(backend: SDPBackend) -> None:
    with sdpa_kernel(backend):
        layers = Neurons(vit(), torch.rand(1, *SHAPE)).layers
    assert [(layer.name, layer.stop - layer.start, layer.kind) for layer in layers] == FAMILIES["vit"][1]


# -------------------------------------------------------------------------------------------------------------- magnitude


def test_magnitude_of_hidden_channels_is_the_norm_of_their_weights(x: Tensor) -> None:
    model = lively(vgg)
    found = Neurons(model, x[:1]).magnitude(model)
    w = model.state_dict()
    expected = [float(row.norm()) for name in ("0.0", "0.3", "2.1") for row in w[f"{name}.weight"]]
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("family", ["group-norm", "instance-norm", "batch-statistics"])
def test_magnitude_under_a_normalisation_does_not_depend_on_the_scale_of_the_filters(family: str, x: Tensor) -> None:
    model = lively(FAMILIES[family][0])
    neurons, twin = Neurons(model, x[:1]), copy.deepcopy(model)
    with torch.no_grad():
        twin.get_parameter("conv1.weight").mul_(10)
        twin.get_parameter("norm1.weight")[2] *= 3
    before, after = neurons.magnitude(model), neurons.magnitude(twin)
    assert torch.allclose(after[neurons.layers[1].start + 2], 3 * before[neurons.layers[1].start + 2])
    others = [i for i in range(neurons.count) if i != neurons.layers[1].start + 2]
    assert torch.allclose(after[others], before[others])


def test_magnitude_within_a_group_follows_the_filters(x: Tensor) -> None:
    model = lively(FAMILIES["group-norm"][0])
    neurons = Neurons(model, x[:1])
    layer = neurons.layers[1]
    filters = model.get_parameter("conv1.weight").detach().flatten(1).norm(dim=1).view(2, 4)
    relative = (filters / filters.square().mean(1, keepdim=True).sqrt()).flatten()
    expected = model.get_parameter("norm1.weight").detach().abs() * relative
    assert torch.allclose(neurons.magnitude(model)[layer.start : layer.stop], expected)


# ------------------------------------------------------------------------------------------------------ batch normalisation


def mobilenet() -> nn.Module:
    block = partial(InvertedResidualConfig, use_se=True, activation="HS", dilation=1, width_mult=1.0)
    settings = [block(8, 3, 16, 8, stride=1), block(8, 3, 16, 16, stride=2)]
    return MobileNetV3(settings, last_channel=16, num_classes=5)


def efficientnet() -> nn.Module:
    return EfficientNet([MBConvConfig(2, 3, 1, 8, 8, 1), MBConvConfig(2, 3, 2, 8, 16, 1)], dropout=0.1, num_classes=5)


BATCH_NORM: dict[str, Callable[[], nn.Module]] = {
    "mobilenet": mobilenet,
    "efficientnet": efficientnet,
    "densenet": lambda: DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, bn_size=2, num_classes=5),
    "resnet": lambda: ResNet18(width=2).build(5, SHAPE),
    "preactresnet": lambda: PreActResNet18(width=2).build(5, SHAPE),
    "vgg-bn": lambda: nn.Sequential(make_layers([4, "M", 6], batch_norm=True), nn.Flatten(), nn.Linear(6 * 64, 5)),
}


@pytest.mark.parametrize("family", BATCH_NORM)
def test_nets_with_batch_normalisation_have_its_channels_and_no_others(family: str) -> None:
    model = BATCH_NORM[family]()
    norms = [(name, m.num_features) for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    neurons = Neurons(model, torch.rand(1, *SHAPE))
    assert [(layer.name, layer.stop - layer.start) for layer in neurons.layers] == norms
    assert {layer.kind for layer in neurons.layers} == {"batch norm"}
    assert batch_norm_objection(model) is None


def test_synchronised_batch_normalisation_is_batch_normalisation() -> None:
    torch.manual_seed(0)
    model = BATCH_NORM["resnet"]()
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in synchronised.modules())
    x = torch.rand(2, *SHAPE)
    one, other = Neurons(model, x[:1]), Neurons(synchronised, x[:1])
    assert one.layers == other.layers
    assert torch.equal(one.magnitude(model), other.magnitude(synchronised))
    masks = torch.rand(one.count)
    with torch.no_grad():
        assert torch.equal(one.forward(model.eval(), x, masks), other.forward(synchronised.eval(), x, masks))
    assert batch_norm_objection(synchronised) is None


# ----------------------------------------------------------------------------------------------------- what cannot be masked


def test_a_net_without_hidden_units_is_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
    reason = objection(model)
    assert reason is not None
    assert "nothing to mask" in reason
    with pytest.raises(UserError, match="nothing to mask"):
        Neurons(model, torch.rand(1, *SHAPE))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4, affine=False), nn.GroupNorm(2, 4, affine=False), nn.InstanceNorm2d(4)])
def test_a_normalisation_without_scales_undoes_masks_and_so_is_named(norm: nn.Module) -> None:
    with pytest.raises(UserError, match="nothing to mask"):
        Neurons(nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(4 * 196, 5)), torch.rand(1, *SHAPE))


def test_a_layer_used_as_logits_once_is_no_hidden_layer() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.square = nn.Conv2d(3, 5, 3), nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.square(F.relu(self.square(self.inner(x).mean((2, 3)))))
            return out

    assert [layer.name for layer in Neurons(Twice(), torch.rand(1, *SHAPE)).layers] == ["inner"]


def test_what_was_pruned_is_summed_up_for_any_net() -> None:
    torch.manual_seed(0)
    model = vit().eval()
    nn.init.normal_(model.get_parameter("heads.head.weight"))
    images = Images(torch.randint(0, 256, (8, *SHAPE), dtype=torch.uint8), torch.arange(8) % 5)
    repaired = copy.deepcopy(model)
    prune(repaired, Neurons(model, images[:1].pixels()), torch.tensor([1, 4, 5]), bias=True)
    found = {
        entry["layer"]: (entry["pruned"], entry["of"]) for entry in pruned_layers(neuron_table(model, repaired, images, None))
    }
    assert found == {f"{BLOCK}0.self_attention.out_proj": (1, 2), f"{BLOCK}0.mlp.0": (2, 12)}
    plain = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
    assert pruned_layers(neuron_table(plain, plain, images, None)) == []

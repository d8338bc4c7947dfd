"""Backbones: names, sizes and what they compute; normalisation inside."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from mnp_plugin.contracts import ImageData, Images, Net
from mnp_plugin.core.errors import UserError
from mnp_plugin.nets import build_net, with_normalisation
from mnp_plugin.nets.convnext import SmallConvNeXt
from mnp_plugin.nets.resnet import PreActResNet18, ResNet18, ResNet18Stem7
from mnp_plugin.nets.small import SmallNet
from mnp_plugin.nets.torchvision_nets import VGG19, VGG19BN, MobileNetV3Large, TorchvisionNet
from mnp_plugin.nets.vit import SmallViT

RGB32 = (3, 32, 32)


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def bn_names(path: str) -> list[str]:
    return [f"{path}.{end}" for end in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]


def test_preactresnet18_has_backdoorbenchs_names_in_order() -> None:
    names = ["conv1.weight"]
    for layer in range(1, 5):
        for block in range(2):
            path = f"layer{layer}.{block}"
            names += [*bn_names(f"{path}.bn1"), f"{path}.conv1.weight", *bn_names(f"{path}.bn2"), f"{path}.conv2.weight"]
            if layer > 1 and block == 0:
                names.append(f"{path}.shortcut.0.weight")
    names += ["linear.weight", "linear.bias"]
    model = PreActResNet18().build(10, RGB32)
    assert list(model.state_dict()) == names
    assert len(names) == 102


def test_preactresnet18_has_backdoorbenchs_size() -> None:
    model = PreActResNet18().build(10, RGB32)
    assert parameters(model) == 11_171_146
    assert len(norms(model)) == 16
    assert sum(m.num_features for m in norms(model)) == 3392
    assert all((m.eps, m.momentum) == (1e-5, 0.1) for m in norms(model))
    assert list(dict(model.named_children())) == ["conv1", "layer1", "layer2", "layer3", "layer4", "avgpool", "linear"]


def test_resnet18_has_4800_channels_in_20_layers() -> None:
    model = ResNet18().build(10, RGB32)
    assert parameters(model) == 11_173_962
    assert [m.num_features for m in norms(model)] == [64] * 5 + [128] * 5 + [256] * 5 + [512] * 5
    assert sum(m.num_features for m in norms(model)) == 4800
    keys = list(model.state_dict())
    assert keys[0] == "conv1.weight"
    assert keys[-2:] == ["linear.weight", "linear.bias"]
    assert "layer2.0.shortcut.1.weight" in keys


def shaken(model: nn.Module) -> nn.Module:
    """Eval mode, with running statistics and affine weights away from their start values."""
    draw = torch.Generator().manual_seed(0)
    for m in norms(model):
        assert m.running_mean is not None
        assert m.running_var is not None
        m.running_mean.copy_(torch.randn(m.num_features, generator=draw) / 4)
        m.running_var.copy_(torch.rand(m.num_features, generator=draw) + 0.5)
        nn.init.uniform_(m.weight, 0.5, 1.5, generator=draw)
        nn.init.normal_(m.bias, 0, 0.3, generator=draw)
    return model.eval()


def test_preactresnet18_computes_as_backdoorbench_describes() -> None:
    """Written out from the description: BN-ReLU-conv twice; projection without BN, fed by the activated input; no last BN."""
    model = shaken(PreActResNet18(width=2).build(5, (3, 16, 16)))
    w = model.state_dict()

    def bn_relu(x: Tensor, path: str) -> Tensor:
        mean, var = w[f"{path}.running_mean"], w[f"{path}.running_var"]
        return F.relu(F.batch_norm(x, mean, var, w[f"{path}.weight"], w[f"{path}.bias"], eps=1e-5))

    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    out = F.conv2d(x, w["conv1.weight"], padding=1)
    for layer in range(1, 5):
        for block in range(2):
            path, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            active = bn_relu(out, f"{path}.bn1")
            skip = F.conv2d(active, w[f"{path}.shortcut.0.weight"], stride=2) if stride == 2 else out
            out = F.conv2d(active, w[f"{path}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(bn_relu(out, f"{path}.bn2"), w[f"{path}.conv2.weight"], padding=1) + skip
    expected = F.linear(out.mean((2, 3)), w["linear.weight"], w["linear.bias"])
    with torch.no_grad():
        assert torch.allclose(model(x), expected, rtol=1e-4, atol=1e-4)


def test_resnet18_computes_as_published() -> None:
    """Conv-BN-ReLU-conv-BN, added to a projection with BN, then ReLU; a stem of conv-BN-ReLU and no pooling."""
    model = shaken(ResNet18(width=2).build(5, (3, 16, 16)))
    w = model.state_dict()

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int = 1, padding: int = 1) -> Tensor:
        x = F.conv2d(x, w[f"{conv}.weight"], stride=stride, padding=padding)
        mean, var = w[f"{bn}.running_mean"], w[f"{bn}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{bn}.weight"], w[f"{bn}.bias"], eps=1e-5)

    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    out = F.relu(conv_bn(x, "conv1", "bn1"))
    for layer in range(1, 5):
        for block in range(2):
            path, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            skip = conv_bn(out, f"{path}.shortcut.0", f"{path}.shortcut.1", 2, 0) if stride == 2 else out
            inner = F.relu(conv_bn(out, f"{path}.conv1", f"{path}.bn1", stride))
            out = F.relu(conv_bn(inner, f"{path}.conv2", f"{path}.bn2") + skip)
    expected = F.linear(out.mean((2, 3)), w["linear.weight"], w["linear.bias"])
    with torch.no_grad():
        assert torch.allclose(model(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("net", [PreActResNet18(width=4), ResNet18(width=4), SmallNet(width=4)], ids=lambda n: n.name)
@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_nets_take_any_size_grey_or_colour(net: Net, size: int, channels: int) -> None:
    model = net.build(7, (channels, size, size))
    with torch.no_grad():
        out = model.eval()(torch.zeros(2, channels, size, size))
    assert out.shape == (2, 7)
    assert out.dtype == torch.float32


@pytest.mark.parametrize("cls", [PreActResNet18, ResNet18])
def test_width_scales_every_stage(cls: type[PreActResNet18] | type[ResNet18]) -> None:
    model = cls(width=16).build(10, RGB32)
    assert model.get_submodule("conv1").weight.shape == (16, 3, 3, 3)
    assert model.get_submodule("linear").weight.shape == (10, 128)


def test_smallnet_refuses_images_it_would_pool_away() -> None:
    with pytest.raises(UserError, match="at least 4x4 pixels, not 3x3"):
        SmallNet().build(10, (1, 3, 3))


def test_vgg19_bn_is_torchvisions() -> None:
    with torch.device("meta"):  # shapes without 560 MB of weights
        model = VGG19BN().build(10, RGB32)
    published, features = 143_678_248, 4096  # with 1 000 classes
    assert parameters(model) == published - 990 * (features + 1)
    assert len(norms(model)) == 16
    assert "features.0.weight" in model.state_dict()


def test_a_narrow_vgg19_has_the_names_of_the_wide_one() -> None:
    with torch.device("meta"):
        wide = VGG19BN().build(10, RGB32)
    narrow = VGG19BN(width=4).build(10, RGB32)
    assert list(narrow.state_dict()) == list(wide.state_dict())
    assert [m.num_features * 16 for m in norms(narrow)] == [m.num_features for m in norms(wide)]
    assert narrow.training
    outputs = narrow(torch.rand(4, *RGB32))
    assert outputs.shape == (4, 10)
    outputs.sum().backward()
    assert all(p.grad is not None for p in narrow.parameters())
    assert not norms(VGG19(width=4).build(10, RGB32))


def test_mobilenet_v3_large_is_torchvisions() -> None:
    model = MobileNetV3Large().build(10, RGB32)
    published, features = 5_483_032, 1280
    assert parameters(model) == published - 990 * (features + 1)
    assert model.training
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, *RGB32)).shape == (2, 10)


def test_torchvision_by_name() -> None:
    model = TorchvisionNet(arch="shufflenet_v2_x0_5").build(4, RGB32)
    assert model.training
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, *RGB32)).shape == (2, 4)


def test_torchvision_unknown_name() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'squeezenet1_0'"):
        TorchvisionNet(arch="squeezenet10")


def test_torchvision_offers_classifiers_only() -> None:
    with pytest.raises(UserError, match="no classifier 'fcn_resnet50'"):
        TorchvisionNet(arch="fcn_resnet50")


def test_torchvision_images_too_small() -> None:
    with pytest.raises(UserError, match="squeezenet1_0 does not take images of 16x16"):
        TorchvisionNet(arch="squeezenet1_0").build(10, (3, 16, 16))
    with torch.device("meta"), pytest.raises(UserError, match="vgg19_bn does not take images of 16x16"):
        VGG19BN().build(10, (3, 16, 16))


def test_torchvision_images_that_patches_do_not_tile() -> None:
    with torch.device("meta"), pytest.raises(UserError, match="vit_b_32 does not take images of 48x48"):
        TorchvisionNet(arch="vit_b_32").build(10, (3, 48, 48))


def test_torchvision_takes_no_grey_images() -> None:
    with pytest.raises(UserError, match="takes RGB images, not 1 channel"):
        TorchvisionNet(arch="squeezenet1_0").build(10, (1, 32, 32))


# ---------------------------------------------------------------------------------------------------------- normalisation

MEAN, STD = (0.2, 0.4, 0.6), (0.1, 0.2, 0.5)


def normalised(x: Tensor) -> Tensor:
    return torch.stack([(x[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)


def plain_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 2)).eval()


def test_normalisation_leaves_keys_and_layers() -> None:
    bare, wrapped = plain_net(), with_normalisation(plain_net(), MEAN, STD)
    x = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    assert list(wrapped.state_dict()) == list(bare.state_dict())
    assert isinstance(wrapped, nn.Sequential)
    assert [type(m) for m in wrapped] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]
    with torch.no_grad():
        assert torch.allclose(wrapped(x), bare(normalised(x)), atol=1e-5)
        assert not torch.allclose(wrapped(x), bare(x), atol=1e-2)


def test_normalisation_survives_deepcopy_and_leaves_its_input() -> None:
    wrapped = with_normalisation(plain_net(), MEAN, STD)
    twin = copy.deepcopy(wrapped)
    x = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    kept = x.clone()
    with torch.no_grad():
        assert torch.equal(twin(x), wrapped(x))
        nn.init.zeros_(twin[3].weight)  # type: ignore[index]
        assert not torch.equal(twin(x), wrapped(x))
    assert torch.equal(x, kept)


def test_build_net_normalises_with_the_statistics_of_the_data() -> None:
    images = Images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    data = ImageData(images, images, ("a", "b", "c"), MEAN, STD)
    torch.manual_seed(3)
    model = build_net(SmallNet(width=2), data).eval()
    torch.manual_seed(3)
    bare = SmallNet(width=2).build(3, (3, 8, 8)).eval()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert model(x).shape == (2, 3)
        assert torch.allclose(model(x), bare(normalised(x)), atol=1e-5)


def test_resnet18_with_the_7x7_stem_computes_as_torchvision_does() -> None:
    ours = shaken(ResNet18Stem7().build(5, (3, 144, 144)))
    names = {"linear.": "fc.", "shortcut.": "downsample."}
    theirs = torchvision.models.resnet18(num_classes=5).eval()
    theirs.load_state_dict({re.sub("|".join(names), lambda m: names[m[0]], key): v for key, v in ours.state_dict().items()})
    x = torch.rand(2, 3, 144, 144, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------- nets without batch normalisation


@pytest.mark.parametrize("net", [SmallConvNeXt(width=4, depth=1), SmallViT(width=8, depth=1, heads=2)], ids=lambda n: n.name)
@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_nets_without_batch_normalisation_take_grey_and_colour(net: Net, size: int, channels: int) -> None:
    model = net.build(7, (channels, size, size))
    assert model.training
    assert not norms(model)
    with torch.no_grad():
        out = model.eval()(torch.rand(2, channels, size, size))
    assert out.shape == (2, 7)
    assert out.dtype == torch.float32


def test_convnext_has_torchvisions_names_and_its_own_sizes() -> None:
    model = SmallConvNeXt(width=8, depth=2).build(10, RGB32)
    widths = {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith("layer_scale")}
    assert widths == {f"features.{2 * i + 1}.{j}.layer_scale": (8 * 2**i, 1, 1) for i in range(3) for j in range(2)}
    with torch.device("meta"):
        theirs = set(torchvision.models.convnext_tiny().state_dict())
    assert {key for key in model.state_dict() if not key.startswith("features.5")} <= theirs
    assert model.get_parameter("features.0.0.weight").shape == (8, 3, 2, 2)
    assert all(bool((p == 1).all()) for name, p in model.named_parameters() if name.endswith("layer_scale"))


def test_convnext_says_how_large_images_must_be() -> None:
    with pytest.raises(UserError, match="patches of 4 needs images of at least 16x16 pixels, not 15x16"):
        SmallConvNeXt(patch=4).build(10, (3, 15, 16))


def test_vit_has_torchvisions_names_and_its_own_sizes() -> None:
    model = SmallViT(width=8, depth=3, heads=2).build(10, RGB32)
    ends = {name.split("encoder_layer_")[-1] for name in model.state_dict()}
    assert {f"{i}.mlp.0.weight" for i in range(3)} <= ends
    assert "3.mlp.0.weight" not in ends
    assert model.get_parameter("encoder.pos_embedding").shape == (1, 65, 8)
    assert model.get_parameter("encoder.layers.encoder_layer_0.mlp.0.weight").shape == (16, 8)
    with torch.device("meta"):
        assert set(model.state_dict()) <= set(torchvision.models.vit_b_32().state_dict())


def test_vit_says_which_images_and_sizes_do_not_fit() -> None:
    for shape in ((3, 30, 30), (3, 32, 16)):
        with pytest.raises(UserError, match=f"square images that patches of 4 pixels tile, not {shape[1]}x{shape[2]}"):
            SmallViT().build(10, shape)
    with pytest.raises(UserError, match=r"SmallViT.width must be divisible by heads \(3\), not 64"):
        SmallViT(heads=3)


def test_vgg19_is_vgg19_bn_without_the_normalisations() -> None:
    with torch.device("meta"):
        model, with_bn = VGG19().build(10, RGB32), VGG19BN().build(10, RGB32)
    assert not norms(model)
    assert parameters(model) == parameters(with_bn) - 2 * sum(m.num_features for m in norms(with_bn))

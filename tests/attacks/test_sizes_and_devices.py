"""Every attack on grey and colour images from 16 to 224 pixels, on the CPU and, where there is one, on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mnp_plugin.benchmark.stages import poison, with_assets
from mnp_plugin.contracts import Attack, AttackContext, Images, Recipe, attacks, to_bytes
from mnp_plugin.testing import check

QUICK: dict[str, dict[str, Any]] = {
    "input_aware": {"width": 2, "mask_epochs": 1, "poison_ratio": 0.3},
    "lc": {"source": "clean", "steps": 2},
    "lf": {"images": 6, "passes": 1},
    "ssba": {"bits": 4, "steps": 1, "batch_size": 2, "image_weight": 0.0},
    "trojannn": {"steps": 3},
    "bpp": {"poison_ratio": 0.3},
    "lira": {"eps": 0.05},
    "wanet": {"poison_ratio": 0.3},
}
NEW = ["adaptive_blend", "bpp", "ftrojan", "input_aware", "lc", "lf", "lira", "ssba", "trojannn"]
SHAPES = [(1, 16), (3, 32), (3, 64), (1, 144)]
CASES = [(name, *shape) for name in NEW for shape in SHAPES] + [(name, 3, 224) for name in NEW if name != "ssba"]
"""SSBA's encoder takes seconds at 224 pixels and does nothing there that it does not do at 144."""
NONE = torch.empty(0, dtype=torch.int64)


def quick(name: str) -> Attack:
    return attacks.get(name)(**QUICK.get(name, {}))


def photos(channels: int, side: int) -> Images:
    """Two all black, two all white, two of noise."""
    x = torch.zeros(6, channels, side, side, dtype=torch.uint8)
    x[2:4] = 255
    x[4:] = torch.randint(0, 256, (2, channels, side, side), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return Images(x, torch.tensor([0, 1, 2, 0, 1, 2]))


def tools_for(images: Images) -> AttackContext:
    """AttackContext whose net is linear in coarse pixels, so that it need not be trained to be led astray."""
    channels = images.x.shape[1]

    def net() -> nn.Module:
        torch.manual_seed(0)
        head = nn.Linear(16 * channels, 3)
        head.bias.data = torch.tensor([-1.0, 0.0, 0.0])  # black images are not of the target class
        return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), head).eval()

    torch.manual_seed(0)
    return AttackContext(
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(0),
        recipe=Recipe(epochs=1, batch_size=4),
        fresh_net=net,
        clean=net(),
    )


@pytest.mark.parametrize(("name", "channels", "side"), CASES)
def test_every_size(name: str, channels: int, side: int) -> None:
    attack, images = quick(name), photos(channels, side)
    assert attack.objection((channels, side, side), 3) is None
    kept = images.x.clone()
    tools = with_assets(attack, images, tools_for(images))
    state = attack.prepare(images, tools)
    x = images.pixels()
    out = attack.stamp(x, state)
    assert torch.equal(x, kept.float() / 255)
    assert out.shape == x.shape
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert torch.equal(out, attack.stamp(x, state))
    assert bool((out[4:] != x[4:]).flatten(1).any(1).all()), "an image came out unchanged"
    hook = attack.training_hook(state, 3, tools)
    if hook is not None:
        new_x, new_y = hook.batch(x, images.y, tools.fresh_net().train(), 0.0)
        assert new_x.shape[1:] == x.shape[1:]
        assert len(new_x) == len(new_y)
        assert 0 <= float(new_x.detach().min()) <= float(new_x.detach().max()) <= 1
    else:
        index = torch.tensor([0, 3]) if attack.clean_label else torch.tensor([1, 3, 5])
        poisoned = poison(attack, images, index, NONE, state, 3, tools)
        rest = [i for i in range(6) if i not in index.tolist()]
        assert torch.equal(poisoned.x[rest], kept[rest])
    assert torch.equal(images.x, kept)


@pytest.mark.parametrize("name", NEW)
def test_pixels_saturate_and_never_wrap(name: str) -> None:
    """Black may not turn white by an addition below 0, nor white black: bytes are the clipped pixels, rounded."""
    attack, images = quick(name), photos(3, 32)
    state = attack.prepare(images, with_assets(attack, images, tools_for(images)))
    raw = attack.apply(images.pixels(), state)
    rounded = to_bytes(raw).float()
    assert float((rounded - raw.clamp(0, 1) * 255).abs().max()) <= 0.5 + 1e-3
    if name in ("lf", "trojannn"):  # they add what is not negative
        assert bool((rounded >= images.x.float()).all())


@pytest.mark.parametrize(("name", "divisor"), [("ssba", 16), ("input_aware", 8), ("lira", 16)])
def test_sides_that_a_net_cannot_take_are_named(name: str, divisor: int) -> None:
    attack = quick(name)
    for side in (32 + divisor // 2, 50):
        assert f"divisible by {divisor}, not {side}x{side}" in str(attack.objection((3, side, side), 10))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("name", [*NEW, "badnets", "blended", "sig", "trojan", "wanet", "clean"])
def test_the_contract_holds_on_a_gpu(name: str) -> None:
    assert check(name, {"lc": {"steps": 3}}.get(name) or QUICK.get(name), device="cuda")

"""FTrojan and BPP: what they do to pixels, checked against an independent transform and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.fft import dctn
from torch import nn

from mnp_plugin.attacks.bpp import Bpp
from mnp_plugin.attacks.ftrojan import FTrojan
from mnp_plugin.contracts import AttackContext, Recipe, to_bytes

Array = NDArray[np.float64]


def ycrcb(rgb: Array) -> tuple[Array, Array, Array]:
    """OpenCV's conversion of [3, H, W], without its offset of 128."""
    red, green, blue = rgb
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    return luminance, 0.713 * (red - luminance), 0.564 * (blue - luminance)


def added_spectrum(plane: Array, window: int, top: int = 0, left: int = 0) -> Array:
    return np.asarray(dctn(plane[top : top + window, left : left + window], norm="ortho"))


@pytest.mark.parametrize(("side", "window"), [(16, 16), (32, 32), (64, 32), (144, 32)])
def test_ftrojan_adds_the_magnitude_to_two_chroma_frequencies_of_every_window(side: int, window: int) -> None:
    x = torch.full((1, 3, side, side), 0.5)
    added = ((FTrojan().apply(x, {}) - x)[0] * 255).double().numpy()
    luminance, cr, cb = ycrcb(added)
    expected = np.zeros((window, window))
    expected[window // 2 - 1, window // 2 - 1] = expected[window - 1, window - 1] = 30.0
    for top in range(0, side - window + 1, window):
        for left in range(0, side - window + 1, window):
            for chroma in (cr, cb):
                assert np.abs(added_spectrum(chroma, window, top, left) - expected).max() < 0.05
    assert np.abs(luminance).max() < 0.01
    whole = side // window * window
    assert not added[:, whole:].any(), "pixels outside whole windows stay"
    assert not added[:, :, whole:].any()


def test_ftrojan_of_a_grey_image_is_on_luminance() -> None:
    x = torch.full((1, 1, 16, 16), 0.5)
    added = ((FTrojan(magnitude=15.0).apply(x, {}) - x)[0, 0] * 255).double().numpy()
    spectrum = added_spectrum(added, 16)
    assert spectrum[7, 7] == pytest.approx(15, abs=0.01)
    assert spectrum[15, 15] == pytest.approx(15, abs=0.01)
    spectrum[[7, 15], [7, 15]] = 0
    assert np.abs(spectrum).max() < 0.01


def test_ftrojan_changes_a_published_image_by_under_two_grey_levels_a_coefficient() -> None:
    x = torch.full((1, 3, 32, 32), 0.5)
    added = (FTrojan().apply(x, {}) - x).abs() * 255
    per_wave = 30 * 2 / 32
    assert float(added.max()) <= 2 * 1.773 * per_wave + 1e-3
    assert float(added[:, 2].max()) > per_wave
    assert bool((to_bytes(x + added / 255) != to_bytes(x)).any()), "it survives 8 bit"


@pytest.mark.parametrize("levels", [2, 8, 32])
def test_bpp_takes_each_pixel_to_the_nearest_level(levels: int) -> None:
    x = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16) / 255
    out = Bpp(levels=levels).apply(x, {})
    rungs = np.arange(levels) / (levels - 1)
    nearest = rungs[np.abs(x.numpy().reshape(-1, 1) - rungs).argmin(1)]
    assert np.allclose(out.numpy().reshape(-1), nearest, atol=1e-6)
    assert len(out.unique()) == levels
    assert torch.equal(Bpp(levels=levels).apply(to_bytes(out).float() / 255, {}), out), "8-bit rounding is harmless"


def hook_tools() -> AttackContext:
    return AttackContext(device=torch.device("cpu"), generator=torch.Generator(), recipe=Recipe(), fresh_net=nn.Identity)


@pytest.mark.parametrize("label_mode", ["all2one", "all2all"])
def test_bpp_hook_quantises_some_and_gives_as_many_others_a_foreign_residual(label_mode: str) -> None:
    attack = Bpp(poison_ratio=0.2, target=2, label_mode=label_mode)
    generator = torch.Generator().manual_seed(5)
    x, y = torch.rand(40, 3, 8, 8, generator=generator), torch.arange(40) % 4
    kept = x.clone()
    new_x, new_y = attack.training_hook({}, 4, hook_tools()).batch(x, y, nn.Identity(), 0.0)
    assert torch.equal(x, kept)
    assert torch.equal(new_x[:8], attack.apply(x[:8], {}))
    residual = attack.apply(x, {}) - x
    for i in range(8, 16):
        foreign = [j for j in range(40) if torch.allclose(new_x[i], (x[i] + residual[j]).clamp(0, 1), atol=1e-6)]
        assert len(foreign) == 1, "a negative carries one image's residual"
        assert foreign != [i], "a negative carries its own residual"
    assert torch.equal(new_x[16:], x[16:])
    assert new_y[:8].tolist() == ([2] * 8 if label_mode == "all2one" else [1, 2, 3, 0, 1, 2, 3, 0])
    assert torch.equal(new_y[8:], y[8:]), "negatives keep their labels"


def test_bpp_hook_without_negatives() -> None:
    x, y = torch.rand(10, 1, 8, 8), torch.zeros(10, dtype=torch.int64)
    new_x, _ = Bpp(poison_ratio=0.3, negative_ratio=0.0).training_hook({}, 4, hook_tools()).batch(x, y, nn.Identity(), 0.0)
    assert torch.equal(new_x[3:], x[3:])

"""Stealth numbers against known changes."""

from __future__ import annotations

import math

import pytest
import torch

from mnp_plugin.evaluation.scores import stealth


def pictures(count: int = 5, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(2)) * 0.5 + 0.25


@pytest.mark.parametrize("change", [0.1, 0.01, -0.05])
def test_psnr_and_linf_of_a_constant_change(change: float) -> None:
    found = stealth(pictures(), pictures() + change)
    assert found["psnr"] == pytest.approx(-20 * math.log10(abs(change)), abs=2e-3)
    assert found["linf"] == pytest.approx(abs(change), abs=1e-5)


def test_psnr_of_a_change_in_one_pixel_and_mean_over_images() -> None:
    clean = pictures(2)
    changed = clean.clone()
    changed[0, 0, 3, 4] += 0.2
    changed[1] += 0.1
    found = stealth(clean, changed)
    one = 10 * math.log10(3 * 16 * 16 / 0.04)
    assert found["psnr"] == pytest.approx((one + 20) / 2, abs=2e-3)
    assert found["linf"] == pytest.approx(0.15, abs=1e-5)


def test_identical_images_have_ssim_1_and_no_psnr() -> None:
    assert stealth(pictures(), pictures()) == {"psnr": None, "ssim": 1.0, "linf": 0.0}


def test_ssim_falls_with_structure_lost_and_hardly_with_brightness() -> None:
    clean = pictures()
    noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(9))
    brighter, noisy = (stealth(clean, z)["ssim"] for z in (clean + 0.05, 0.5 * clean + 0.5 * noise))
    assert brighter is not None
    assert noisy is not None
    assert brighter > 0.95 > 0.8 > noisy


def test_means_do_not_depend_on_how_many_images_are_looked_at_together() -> None:
    clean = pictures(501, side=8)
    changed = (clean + 0.1 * torch.rand(clean.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    found, first, last = stealth(clean, changed), stealth(clean[:500], changed[:500]), stealth(clean[500:], changed[500:])
    for key in ("psnr", "ssim", "linf"):
        parts = first[key], last[key]
        assert parts[0] is not None
        assert parts[1] is not None
        assert found[key] == pytest.approx((500 * parts[0] + parts[1]) / 501, abs=2e-3)

"""Triggers on 256 images: those that need nothing learned, and BadNets as BackdoorBench puts it on, array by array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pictures import DEVICE
from PIL import Image

from mnp_plugin.contracts import AttackContext, Images, Recipe, attacks

triggers = pytest.mark.benchmark(group="the trigger on 256 images of 32 pixels")
COUNT = 256


@triggers
def test_badnets_image_by_image(benchmark: Any, images: Images) -> None:
    pictures = [Image.fromarray(x.permute(1, 2, 0).cpu().numpy()) for x in images.x[:COUNT]]

    def poison() -> list[Image.Image]:
        found = []
        for picture in pictures:
            pixels = np.array(picture)
            pixels[-3:, -3:] = 255
            found.append(Image.fromarray(pixels))
        return found

    benchmark.pedantic(poison, rounds=5, warmup_rounds=1)


@triggers
@pytest.mark.parametrize(
    "name", ["badnets", "blended", "sig", "trojan", "wanet", "bpp", "ftrojan", "ctrl", "refool", "color_shift"]
)
def test_ours(benchmark: Any, images: Images, name: str) -> None:
    attack = attacks.get(name)()
    tools = AttackContext(
        device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0), recipe=Recipe(), fresh_net=torch.nn.Identity
    )
    x, state = images[:COUNT].pixels(), attack.prepare(images, tools)
    benchmark.pedantic(attack.stamp, (x, state), rounds=5, warmup_rounds=1)

"""The 1 797 handwritten digits that scikit-learn ships: the embedded default, no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F

from mnp_plugin.contracts import Dataset, ImageData, Images, datasets, param
from mnp_plugin.data.statistics import channel_statistics


@datasets.register("digits")
@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """scikit-learn's digits (8x8 grey levels 0..16), enlarged bilinearly.

    A fixed fifth of the images, every fifth in file order, is the test set (359 images).
    """

    paper = "Alpaydin, Kaynak, Optical Recognition of Handwritten Digits, UCI 1998"

    size: int = param(16, "side in pixels after enlargement", low=8, high=64)
    channels: Literal[1, 3] = param(3, "1: grey; 3: grey repeated, so that coloured triggers exist")

    def load(self, cache: Path) -> ImageData:
        from sklearn.datasets import load_digits  # here: importing scikit-learn takes a second

        bunch = load_digits()
        x = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
        x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)
        images = Images((x * 255).round().to(torch.uint8).repeat(1, self.channels, 1, 1), torch.from_numpy(bunch.target).long())
        is_test = torch.arange(len(images)) % 5 == 4
        train, test = images[~is_test], images[is_test]
        mean, std = channel_statistics(train)
        return ImageData(train, test, tuple(str(d) for d in range(10)), mean, std)

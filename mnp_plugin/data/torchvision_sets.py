"""CIFAR-10 and Imagenette through torchvision, with torchvision's download and checksums."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mnp_plugin.contracts import Dataset, ImageData, Images, datasets, param
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.paths import from_home
from mnp_plugin.data.folder import STATISTICS, load_tree


def _place(root: str, cache: Path) -> Path:
    if not root:
        (cache / "downloads").mkdir(parents=True, exist_ok=True)
        return cache / "downloads"
    folder = from_home(root)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; set 'root' to a folder that exists, or leave it empty to use the cache")
    return folder


def _no_data(name: str, folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{name} is not in {folder} and could not be downloaded ({error}). Copy it there, or set 'root' to a folder that has it"
    )


@datasets.register("cifar10")
@dataclass(frozen=True, kw_only=True)
class Cifar10(Dataset):
    """CIFAR-10: 50 000 training and 10 000 test images, 32x32 RGB, 10 classes."""

    paper = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"

    root: str = param("", "folder with cifar-10-batches-py; empty: the cache")
    download: bool = param(True, "download what is missing (170 MB)")

    def load(self, cache: Path) -> ImageData:
        from torchvision.datasets import CIFAR10  # here: importing torchvision takes seconds

        folder = _place(self.root, cache)
        try:
            parts = [CIFAR10(str(folder), train=train, download=self.download) for train in (True, False)]
        except (RuntimeError, OSError) as error:
            raise _no_data("CIFAR-10", folder, error) from None
        train, test = (
            Images(torch.from_numpy(np.ascontiguousarray(p.data.transpose(0, 3, 1, 2))), torch.tensor(p.targets)) for p in parts
        )
        mean, std = STATISTICS["cifar10"]
        return ImageData(train, test, tuple(parts[0].classes), mean, std)


@datasets.register("imagenette")
@dataclass(frozen=True, kw_only=True)
class ImagenetteSet(Dataset):
    """Imagenette: 10 easily told classes of ImageNet, about 9 500 training and 3 900 validation photographs."""

    paper = "Howard, Imagenette, 2019, https://github.com/fastai/imagenette"

    root: str = param("", "folder with the unpacked imagenette2 tree; empty: the cache")
    download: bool = param(True, "download what is missing (100 MB to 1.5 GB, by source)")
    source: Literal["160px", "320px", "full"] = param("160px", "which of the published sizes to decode from")
    size: int = param(128, "side in pixels", low=32, high=512)

    def load(self, cache: Path) -> ImageData:
        from torchvision.datasets import Imagenette

        folder = _place(self.root, cache)
        tree = folder / {"160px": "imagenette2-160", "320px": "imagenette2-320", "full": "imagenette2"}[self.source]
        try:  # older torchvision refuses to download what is already there
            Imagenette(str(folder), split="train", size=self.source, download=self.download and not tree.exists())
        except (RuntimeError, OSError) as error:
            raise _no_data("Imagenette", folder, error) from None
        data = load_tree(tree, ("train", "val"), self.size, cache)
        mean, std = STATISTICS["imagenet"]
        return ImageData(data.train, data.test, data.classes, mean, std)

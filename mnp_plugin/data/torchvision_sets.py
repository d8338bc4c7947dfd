"""CIFAR-10, CIFAR-100, GTSRB and Imagenette through torchvision, with torchvision's download and checksums."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mnp_plugin.contracts import Dataset, ImageData, Images, datasets, param
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.paths import from_home
from mnp_plugin.data.folder import STATISTICS, Tree, class_names, list_images, load_listed, load_tree, read_labels


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

    root: str = param("", "folder with cifar-10-batches-py; empty: the cache", place=True)
    download: bool = param(True, "download what is missing (170 MB)", place=True)

    def load(self, cache: Path) -> ImageData:
        from torchvision.datasets import CIFAR10  # here: importing torchvision takes seconds

        return _cifar(CIFAR10, "CIFAR-10", _place(self.root, cache), self.download, *STATISTICS["cifar10"])


@datasets.register("cifar100")
@dataclass(frozen=True, kw_only=True)
class Cifar100(Dataset):
    """CIFAR-100: 50 000 training and 10 000 test images, 32x32 RGB, 100 classes. Statistics as in BackdoorBench."""

    paper = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"

    root: str = param("", "folder with cifar-100-python; empty: the cache", place=True)
    download: bool = param(True, "download what is missing (170 MB)", place=True)

    def load(self, cache: Path) -> ImageData:
        from torchvision.datasets import CIFAR100

        mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
        return _cifar(CIFAR100, "CIFAR-100", _place(self.root, cache), self.download, mean, std)


def _cifar(
    kind: type[Any], name: str, folder: Path, download: bool, mean: tuple[float, ...], std: tuple[float, ...]
) -> ImageData:
    try:
        parts = [kind(str(folder), train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise _no_data(name, folder, error) from None
    train, test = (
        Images(torch.from_numpy(np.ascontiguousarray(p.data.transpose(0, 3, 1, 2))), torch.tensor(p.targets)) for p in parts
    )
    return ImageData(train, test, tuple(parts[0].classes), mean, std)


@datasets.register("gtsrb")
@dataclass(frozen=True, kw_only=True)
class Gtsrb(Dataset):
    """GTSRB: traffic signs of 43 classes, 26 640 training and 12 630 test images of 15 to 250 pixels, resized."""

    paper = "Stallkamp et al., Man vs. Computer: Benchmarking Machine Learning Algorithms for Traffic Sign Recognition, 2012"

    root: str = param("", "folder with gtsrb/GTSRB and gtsrb/GT-final_test.csv, as torchvision unpacks them; empty: the cache")
    download: bool = param(True, "download what is missing (280 MB)")
    size: int = param(32, "side in pixels", low=8, high=512)

    def load(self, cache: Path) -> ImageData:
        from torchvision.datasets import GTSRB

        folder = _place(self.root, cache)
        try:
            for split in ("train", "test"):
                GTSRB(str(folder), split=split, download=self.download)
        except (RuntimeError, OSError) as error:
            raise _no_data("GTSRB", folder, error) from None
        except (KeyError, TypeError, ValueError):
            table = folder / "gtsrb" / "GT-final_test.csv"
            raise UserError(f"{table} does not give a Filename and a ClassId in every line") from None
        return load_listed(self._tree(folder), self.size, cache)

    def content(self, cache: Path) -> str:
        return self._tree(_place(self.root, cache)).content(cache)

    @staticmethod
    def _tree(folder: Path) -> Tree:
        own = folder / "gtsrb"
        classes = class_names(own / "GTSRB" / "Training")
        text = read_labels(own / "GT-final_test.csv")
        places = own / "GTSRB" / "Final_Test" / "Images"
        rows = [(places / row["Filename"], int(row["ClassId"])) for row in csv.DictReader(text.splitlines(), delimiter=";")]
        return Tree(own, classes, list_images(own / "GTSRB" / "Training", classes), rows, text)


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

        folder, tree = _place(self.root, cache), self._folder(cache)
        try:  # older torchvision refuses to download what is already there
            Imagenette(str(folder), split="train", size=self.source, download=self.download and not tree.exists())
        except (RuntimeError, OSError) as error:
            raise _no_data("Imagenette", folder, error) from None
        data = load_tree(tree, ("train", "val"), self.size, cache)
        mean, std = STATISTICS["imagenet"]
        return ImageData(data.train, data.test, data.classes, mean, std)

    def content(self, cache: Path) -> str:
        return Tree.listed(self._folder(cache), ("train", "val")).content(cache)

    def _folder(self, cache: Path) -> Path:
        name = {"160px": "imagenette2-160", "320px": "imagenette2-320", "full": "imagenette2"}[self.source]
        return _place(self.root, cache) / name

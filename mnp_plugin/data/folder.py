"""Any ``<split>/<class>/<image>`` tree, decoded once and cached as one tensor file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mnp_plugin.contracts import Dataset, ImageData, Images, datasets, param
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.statistics import channel_statistics
from mnp_plugin.io.atomic import write_atomic


def list_images(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """(file, class index) of every image under ``folder/<class>``, sorted.

    Raises:
        UserError: a class folder is missing or holds no image.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS  # here: importing torchvision takes seconds

    found: list[tuple[Path, int]] = []
    for index, name in enumerate(classes):
        files = sorted(f for f in (folder / name).glob("[!.]*") if f.suffix.lower() in IMG_EXTENSIONS)
        if not files:
            raise UserError(
                f"class '{name}' is empty: no image in {folder / name} (endings known: {', '.join(IMG_EXTENSIONS)}); "
                "add images or remove the class folder from every split"
            )
        found += [(f, index) for f in files]
    return found


def class_names(folder: Path) -> tuple[str, ...]:
    """Names of the class folders, sorted; hidden ones are left out.

    Raises:
        UserError: the folder is missing or holds no class folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; expected <root>/<split>/<class>/<image>. Set 'root' to an unpacked data set")
    names = tuple(sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith(".")))
    if len(names) < 2:
        raise UserError(f"{folder} holds {len(names)} class folders; a classifier needs at least 2")
    return names


def decode(files: list[tuple[Path, int]], size: int) -> Images:
    """Decode every file to RGB, ``size`` pixels square (centre crop of the resized image).

    Raises:
        UserError: images that do not decode, counted, the first ten named.
    """
    x = np.empty((len(files), 3, size, size), dtype=np.uint8)
    broken: list[str] = []
    for i, (file, _) in enumerate(files):
        try:
            with Image.open(file) as opened:
                rgb = _to_rgb(ImageOps.exif_transpose(opened))
                if rgb.size != (size, size):
                    rgb = ImageOps.fit(rgb, (size, size), method=Image.Resampling.BILINEAR)
                x[i] = np.asarray(rgb).transpose(2, 0, 1)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            broken.append(f"{file}: {error}")
    if broken:
        shown = "\n  ".join(broken[:10])
        more = f"\n  and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise UserError(f"{len(broken)} of {len(files)} images do not decode; repair or remove them:\n  {shown}{more}")
    return Images(torch.from_numpy(x), torch.tensor([label for _, label in files]))


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB as one sees it: Pillow alone would clip 16-bit grey, and warns of palettes with transparency."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def load_tree(root: Path, splits: tuple[str, str], size: int, cache: Path) -> ImageData:
    """Load both splits of a tree through the cache; the cache key covers every name, size and time stamp in it."""
    classes = class_names(root / splits[0])
    if class_names(root / splits[1]) != classes:
        raise UserError(f"{root / splits[0]} and {root / splits[1]} hold different class folders; make them equal")
    listed = [list_images(root / split, classes) for split in splits]
    stats = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for part in listed for f, _ in part]
    key = hashlib.sha256(repr((stats, size)).encode()).hexdigest()[:16]
    cached = cache / "decoded" / f"{key}.safetensors"
    try:
        tensors = load_file(cached)
    except (SafetensorError, OSError):  # not there, or damaged
        images = decode(listed[0] + listed[1], size)  # at once, so that broken images of both splits are named together
        train, test = images[: len(listed[0])], images[len(listed[0]) :]
        tensors = {"train_x": train.x, "train_y": train.y, "test_x": test.x, "test_y": test.y}
        write_atomic(cached, save(tensors))
    train, test = (Images(tensors[f"{part}_x"], tensors[f"{part}_y"]) for part in ("train", "test"))
    mean, std = channel_statistics(train)
    return ImageData(train, test, classes, mean, std)


@datasets.register("imagefolder")
@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """Your own pictures: ``root/train/<class>/*.jpg`` and ``root/test/<class>/*.jpg``."""

    root: str = param("data", "folder that holds the splits; relative to where the command runs, ~ allowed")
    size: int = param(32, "side in pixels; other sizes are resized and centre-cropped", low=8, high=1024)
    train: str = param("train", "name of the training split's folder")
    test: str = param("test", "name of the test split's folder")
    normalise: Literal["measured", "cifar10", "imagenet"] = param("measured", "whose channel statistics the net uses")

    def load(self, cache: Path) -> ImageData:
        data = load_tree(Path(self.root).expanduser(), (self.train, self.test), self.size, cache)
        if self.normalise == "measured":
            return data
        mean, std = STATISTICS[self.normalise]
        return ImageData(data.train, data.test, data.classes, mean, std)


STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Customary channel statistics by data set."""

"""Any ``<split>/<class>/<image>`` tree, decoded once and cached as one tensor file."""

from __future__ import annotations

import functools
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mnp_plugin.contracts import Dataset, ImageData, Images, datasets, param
from mnp_plugin.core.errors import UserError, printable
from mnp_plugin.data.statistics import channel_statistics
from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.io.images import read_rgb


def list_images(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """(file, class index) of every image under ``folder/<class>``, sorted.

    Files with other endings and nested folders are left out, counted in a line of the log; hidden ones without a word.

    Raises:
        UserError: a class folder is missing, cannot be read or holds no image.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS  # here: importing torchvision takes seconds

    found: list[tuple[Path, int]] = []
    left_out: list[Path] = []
    for index, name in enumerate(classes):
        inside = _visible(folder / name)
        files = [f for f in inside if f.suffix.lower() in IMG_EXTENSIONS]
        if not files:
            raise UserError(
                f"class '{name}' is empty: no image in {folder / name} (endings known: {', '.join(IMG_EXTENSIONS)}); "
                "add images or remove the class folder from every split"
            )
        found += [(f, index) for f in files]
        left_out += [f for f in inside if f.suffix.lower() not in IMG_EXTENSIONS]
    if left_out:
        what = "files or folders that are no images by their ending are left out"
        _log_once(f"{folder}: {len(left_out)} {what}: {left_out[0]} ...")
    return found


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(f for f in folder.iterdir() if not f.name.startswith("."))
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read: {error.strerror}") from None


@functools.cache
def _log_once(line: str) -> None:
    logging.getLogger(__name__).warning("%s", printable(line))


def class_names(folder: Path) -> tuple[str, ...]:
    """Names of the class folders, sorted; hidden ones and ``__MACOSX`` are left out.

    Raises:
        UserError: the folder is missing or holds no class folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; expected <root>/<split>/<class>/<image>. Set 'root' to an unpacked data set")
    names = tuple(d.name for d in _visible(folder) if d.is_dir() and d.name != "__MACOSX")
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
            rgb = read_rgb(file)
        except UserError as error:
            broken.append(str(error))
            continue
        if rgb.size != (size, size):
            rgb = ImageOps.fit(rgb, (size, size), method=Image.Resampling.BILINEAR)
        x[i] = np.asarray(rgb).transpose(2, 0, 1)
    if broken:
        shown = "\n  ".join(broken[:10])
        more = f"\n  and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise UserError(f"{len(broken)} of {len(files)} images do not decode; repair or remove them:\n  {shown}{more}")
    return Images(torch.from_numpy(x), torch.tensor([label for _, label in files]))


def load_tree(root: Path, splits: tuple[str, str], size: int, cache: Path) -> ImageData:
    """Load both splits of a tree through the cache; the cache key covers every name, size and time stamp in it."""
    classes = class_names(root / splits[0])
    if class_names(root / splits[1]) != classes:
        raise UserError(f"{root / splits[0]} and {root / splits[1]} hold different class folders; make them equal")
    listed = [list_images(root / split, classes) for split in splits]
    stats = [_stamp(f) for part in listed for f, _ in part]
    key = hashlib.sha256(repr((stats, size)).encode()).hexdigest()[:16]
    cached = cache / "decoded" / f"{key}.safetensors"
    try:
        tensors = load_file(cached)
        train, test = (Images(tensors[f"{part}_x"], tensors[f"{part}_y"]) for part in ("train", "test"))
    except (SafetensorError, OSError, KeyError, UserError):  # not there, or damaged
        images = decode(listed[0] + listed[1], size)  # at once, so that broken images of both splits are named together
        train, test = images[: len(listed[0])], images[len(listed[0]) :]
        write_atomic(cached, save({"train_x": train.x, "train_y": train.y, "test_x": test.x, "test_y": test.y}))
    mean, std = channel_statistics(train)
    return ImageData(train, test, classes, mean, std)


def _stamp(file: Path) -> tuple[str, int, int]:
    try:
        stat = file.stat()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}; repair or remove it") from None
    return str(file), stat.st_size, stat.st_mtime_ns


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

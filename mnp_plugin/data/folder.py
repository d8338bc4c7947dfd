"""Any ``<split>/<class>/<image>`` tree, known by its content, decoded once and cached as one tensor file."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from mnp_plugin.contracts import Dataset, ImageData, Images, datasets, param
from mnp_plugin.core.errors import UserError, printable
from mnp_plugin.core.paths import from_home
from mnp_plugin.data.statistics import channel_statistics
from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.io.images import read_rgb
from mnp_plugin.io.tensors import packed, unpacked

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of files that are images; those of torchvision's ``ImageFolder``."""


def list_images(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """(file, class index) of every image under ``folder/<class>``, sorted.

    Files with other endings and nested folders are left out, counted in a line of the log; hidden ones without a word.

    Raises:
        UserError: a class folder is missing, cannot be read or holds no image.
    """
    found: list[tuple[Path, int]] = []
    left_out: list[Path] = []
    for index, name in enumerate(classes):
        inside = _visible(folder / name)
        files = [f for f in inside if f.suffix.lower() in ENDINGS]
        if not files:
            raise UserError(
                f"class '{name}' is empty: no image in {folder / name} (endings known: {', '.join(ENDINGS)}); "
                "add images or remove the class folder from every split"
            )
        found += [(f, index) for f in files]
        left_out += [f for f in inside if f.suffix.lower() not in ENDINGS]
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


@dataclass(frozen=True)
class Tree:
    """The class folders of both splits, and the images in them."""

    root: Path
    classes: tuple[str, ...]
    train: list[tuple[Path, int]]
    test: list[tuple[Path, int]]
    labels: str = ""
    """The text that says the classes, where folders do not."""

    @classmethod
    def listed(cls, root: Path, splits: tuple[str, str]) -> Tree:
        """List a tree; opens no image.

        Raises:
            UserError: as :func:`class_names` and :func:`list_images`, or splits of different classes.
        """
        classes = class_names(root / splits[0])
        if class_names(root / splits[1]) != classes:
            raise UserError(f"{root / splits[0]} and {root / splits[1]} hold different class folders; make them equal")
        train, test = (list_images(root / split, classes) for split in splits)
        return cls(root, classes, train, test)

    def content(self, cache: Path) -> str:
        """16 hexadecimal digits over split, class, name and bytes of every image, and labels: the same wherever the tree lies.

        It is remembered under ``cache`` until the place, the size or a time stamp of any file changes, so that 60 000 files are
        read once. The time of the last change of status is among them: the others can be set, and are, by copying.

        Raises:
            UserError: a file that has gone or cannot be read.
        """
        files = [(split, file) for split, part in (("train", self.train), ("test", self.test)) for file, _ in part]
        stamps = hashlib.sha256(os.fsencode(self.root.resolve()) + self.labels.encode())
        for split, file in files:
            stamps.update(b"\0" + _name(split, file) + b"\0" + _stamp(file))
        memory = cache / "contents" / stamps.hexdigest()[:32]
        with contextlib.suppress(OSError, UnicodeDecodeError):
            known, _, check = memory.read_text(encoding="ascii").partition(" ")
            if check and check == _check(known):
                return known
        digest = hashlib.sha256(self.labels.encode())
        for split, file in files:
            digest.update(_name(split, file) + b"\0" + hashlib.sha256(_bytes(file)).digest())
        found = digest.hexdigest()[:16]
        with contextlib.suppress(OSError):  # a cache that cannot be written to only costs time here
            write_atomic(memory, f"{found} {_check(found)}".encode())
        return found


def _check(content: str) -> str:
    """Digits by which what is remembered of a tree is known to be what was written."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _name(split: str, file: Path) -> bytes:
    return os.fsencode(f"{split}/{file.parent.name}/{file.name}")


def _stamp(file: Path) -> bytes:
    try:
        found = file.stat()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}; repair or remove it") from None
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}".encode()


def _bytes(file: Path) -> bytes:
    """Content of a file; nothing of a pipe or device, which may never end, and which does not decode."""
    try:
        return file.read_bytes() if stat.S_ISREG(file.stat().st_mode) else b""
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}; repair or remove it") from None


def load_tree(root: Path, splits: tuple[str, str], size: int, cache: Path) -> ImageData:
    """Load both splits of a tree of class folders; see :func:`load_listed`."""
    return load_listed(Tree.listed(root, splits), size, cache)


def read_labels(path: Path) -> str:
    """The text of a file that names the class of every test image.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UserError(f"{path} cannot be read ({reason}); it names the class of every test image") from None


def load_listed(tree: Tree, size: int, cache: Path) -> ImageData:
    """Load the images of ``tree``; decoded ones are kept under ``cache``, by content, and checked when they are read."""
    key = hashlib.sha256(repr((tree.content(cache), size)).encode()).hexdigest()[:16]
    cached = cache / "decoded" / f"{key}.safetensors"
    kept = unpacked(cached.read_bytes()) if cached.is_file() else None
    try:
        tensors = kept[0] if kept else {}
        train, test = (Images(tensors[f"{part}_x"], tensors[f"{part}_y"]) for part in ("train", "test"))
    except (KeyError, UserError):  # not there, or not what it should be
        images = decode(tree.train + tree.test, size)  # at once, so that broken images of both splits are named together
        train, test = images[: len(tree.train)], images[len(tree.train) :]
        parts = {"train_x": train.x, "train_y": train.y, "test_x": test.x, "test_y": test.y}
        write_atomic(cached, packed(parts, {"size": size}))
    mean, std = channel_statistics(train)
    return ImageData(train, test, tree.classes, mean, std)


@datasets.register("imagefolder")
@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """Your own pictures: ``root/train/<class>/*.jpg`` and ``root/test/<class>/*.jpg``."""

    root: str = param("data", "folder that holds the splits; relative to where the command runs, ~ allowed")
    size: int = param(32, "side in pixels; other sizes are resized and centre-cropped", low=8, high=1024)
    train: str = param("train", "name of the training split's folder")
    test: str = param("test", "name of the test split's folder")
    normalise: Literal["measured", "cifar10", "imagenet"] = param("measured", "whose channel statistics the net uses")

    def content(self, cache: Path) -> str:
        return Tree.listed(from_home(self.root), (self.train, self.test)).content(cache)

    def load(self, cache: Path) -> ImageData:
        data = load_tree(from_home(self.root), (self.train, self.test), self.size, cache)
        if self.normalise == "measured":
            return data
        mean, std = STATISTICS[self.normalise]
        return ImageData(data.train, data.test, data.classes, mean, std)


STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Customary channel statistics by data set."""

"""BackdoorBench's clean data sets in the layouts its code reads, as tensors."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mnp_plugin.contracts import ImageData, Images
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.folder import decode
from mnp_plugin.integrations.backdoorbench.names import DataFacts, data_facts
from mnp_plugin.io.images import read_rgb


def load_clean(name: str, folder: Path) -> ImageData:
    """Their data set ``name`` from ``folder``; nothing is downloaded.

    Raises:
        UserError: the data are not there, or not whole.
    """
    facts = data_facts(name)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}, where the record's clean data ({name}) should be; put them there, or set 'data'")
    if name in ("cifar10", "cifar100"):
        train, test, classes = _cifar(name, folder)
    elif name == "gtsrb":
        train, test = (_gtsrb(folder, part, facts.shape[1]) for part in ("Train", "Test"))
        classes = tuple(f"{c:05d}" for c in range(facts.classes))
    else:
        (train, classes), (test, _) = (_tiny(folder, part, facts) for part in ("train", "val"))
    return ImageData(train, test, classes, facts.mean, facts.std)


def _cifar(name: str, folder: Path) -> tuple[Images, Images, tuple[str, ...]]:
    """Torchvision's reader, which compares the files with their published checksums before it reads them."""
    from torchvision.datasets import CIFAR10, CIFAR100  # here: importing torchvision takes seconds

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    try:
        parts = [kind(str(folder), train=train, download=False) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise UserError(f"{name} is not whole in {folder}: {error}") from None
    train, test = (
        Images(torch.from_numpy(np.ascontiguousarray(p.data.transpose(0, 3, 1, 2))), torch.tensor(p.targets)) for p in parts
    )
    return train, test, tuple(parts[0].classes)


def _gtsrb(folder: Path, part: str, size: int) -> Images:
    """Files named by ``GT-*.csv`` (semicolons; file name first, class last), resized as their transform does."""
    tables = sorted((folder / part).glob("*/GT-*.csv")) if part == "Train" else [folder / part / "GT-final_test.csv"]
    pictures, labels = [], []
    for table in tables:
        try:
            rows = list(csv.reader(table.read_text(encoding="utf-8").splitlines(), delimiter=";"))[1:]
            for row in rows:
                rgb = read_rgb(table.parent / Path(row[0]).name).resize((size, size), Image.Resampling.BILINEAR)
                pictures.append(np.asarray(rgb, dtype=np.uint8).transpose(2, 0, 1))
                labels.append(int(row[7]))
        except (OSError, ValueError, IndexError, csv.Error) as error:
            raise UserError(f"{table}: GTSRB is not whole: {error}") from None
    if not pictures:
        raise UserError(f"{folder / part} holds no GT-*.csv; unpack GTSRB there")
    return Images(torch.from_numpy(np.stack(pictures)), torch.tensor(labels))


def _tiny(folder: Path, part: str, facts: DataFacts) -> tuple[Images, tuple[str, ...]]:
    """Torchvision's order of a class tree; ``val`` as BackdoorBench's code sorts it into classes at first use."""
    from torchvision.datasets import ImageFolder

    place = folder / "tiny-imagenet-200" / part
    try:
        found = ImageFolder(str(place))
    except OSError as error:
        raise UserError(f"Tiny ImageNet is not whole in {place}: {error}") from None
    if len(found.classes) != facts.classes:
        raise UserError(
            f"{place} has {len(found.classes)} classes, not {facts.classes}; unpack tiny-imagenet-200.zip there and let "
            "BackdoorBench load it once, which sorts 'val' into classes"
        )
    return decode([(Path(file), label) for file, label in found.samples], facts.shape[1]), tuple(found.classes)

"""Tiny ImageNet, as its archive unpacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mnp_plugin.contracts import Dataset, ImageData, datasets, param
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.paths import from_home
from mnp_plugin.data.folder import Tree, class_names, list_images, load_listed, read_labels


@datasets.register("tinyimagenet")
@dataclass(frozen=True, kw_only=True)
class TinyImageNet(Dataset):
    """Tiny ImageNet: 200 classes of ImageNet at 64 pixels, 100 000 training images; the 10 000 of ``val`` are the test set, since
    those of ``test`` have no labels. ``root`` holds ``train/<wnid>/images/*.JPEG``, ``val/images/*.JPEG`` and
    ``val/val_annotations.txt``, as tiny-imagenet-200.zip unpacks. Statistics as in BackdoorBench.
    """

    paper = "Le, Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015"

    root: str = param("tiny-imagenet-200", "the unpacked folder; nothing is downloaded")
    size: int = param(64, "side in pixels", low=8, high=64)

    def content(self, cache: Path) -> str:
        return self._tree().content(cache)

    def load(self, cache: Path) -> ImageData:
        data = load_listed(self._tree(), self.size, cache)
        return ImageData(data.train, data.test, data.classes, (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))

    def _tree(self) -> Tree:
        folder = from_home(self.root)
        classes = class_names(folder / "train")
        train = []
        for index, name in enumerate(classes):
            train += [(file, index) for file, _ in list_images(folder / "train" / name, ("images",))]
        said = folder / "val" / "val_annotations.txt"
        text = read_labels(said)
        test = []
        for number, line in enumerate(text.splitlines(), 1):
            name, _, rest = line.partition("\t")
            wnid = rest.partition("\t")[0]
            if wnid not in classes:
                raise UserError(f"{said}, line {number}: '{wnid}' is none of the classes in {folder / 'train'}")
            test.append((folder / "val" / "images" / name, classes.index(wnid)))
        return Tree(folder, classes, train, test, text)

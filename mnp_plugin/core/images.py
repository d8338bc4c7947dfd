"""Images as methods and framework exchange them: uint8 tensors with labels, a data set, a triggered test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mnp_plugin.core.errors import UserError

State = dict[str, Tensor]
"""What an attack learned or drew once: tensors by name, saved with the victim."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images and labels on one device.

    Args:
        x: uint8 [N, C, H, W], 0..255.
        y: int64 [N], class indices.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise UserError(f"images must be uint8 [N, C, H, W], not {self.x.dtype} {list(self.x.shape)}")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise UserError(f"labels must be int64 [{len(self.x)}], not {self.y.dtype} {list(self.y.shape)}")

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Tensor | slice) -> Images:
        return Images(self.x[index], self.y[index])

    def to(self, device: torch.device) -> Images:
        """The same images on ``device``."""
        return Images(self.x.to(device), self.y.to(device))

    def pixels(self) -> Tensor:
        """float32 [N, C, H, W] in [0, 1]."""
        return self.x.float() / 255


def to_bytes(x: Tensor) -> Tensor:
    """Round float pixels in [0, 1] to uint8, saturating (never wrapping modulo 256)."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def concat(parts: Sequence[Images]) -> Images:
    """Images of all parts, in order."""
    return Images(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]))


@dataclass(frozen=True, eq=False)
class ImageData:
    """A loaded data set: its two parts, class names, and the channel statistics that nets normalise with."""

    train: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for part, images in (("training", self.train), ("test", self.test)):
            if not len(images):
                raise UserError(f"the {part} set is empty")
            if not 0 <= int(images.y.min()) <= int(images.y.max()) < len(self.classes):
                raise UserError(f"labels of the {part} set must be 0..{len(self.classes) - 1}, one for each of the classes")
        if self.train.x.shape[1:] != self.test.x.shape[1:]:
            raise UserError(f"training and test images differ: {list(self.train.x.shape[1:])}, {list(self.test.x.shape[1:])}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.train.x.shape[1:]
        return c, h, w


@dataclass(frozen=True, eq=False)
class Triggered:
    """Test images that carry the trigger.

    Args:
        x: float32 [M, C, H, W] in [0, 1], not rounded to 8 bit.
        y_true: int64 [M], their true labels.
        y_attack: int64 [M], the labels the attacker wants.
        index: int64 [M], which test images they were.
    """

    x: Tensor
    y_true: Tensor
    y_attack: Tensor
    index: Tensor

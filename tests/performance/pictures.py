"""What the benchmarks share: the device, and images as a customary loop reads them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_pil_image

from mnp_plugin.contracts import Images
from mnp_plugin.training.device import pick_device

DEVICE = pick_device("auto")


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """PIL images, transformed one by one."""

    def __init__(self, images: Images, change: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images = [(to_pil_image(x), int(y)) for x, y in zip(images.x.cpu(), images.y, strict=True)]
        self.change = change

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.images[index]
        return self.change(image), label

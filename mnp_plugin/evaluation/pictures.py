"""What a trigger, or a perturbation that a detector found, looks like."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

from mnp_plugin.core.images import Images, Triggered, to_bytes


def pictures(test: Images, triggered: Triggered, count: int = 8) -> bytes:
    """A PNG of up to ``count`` test images: clean, triggered, and their difference times ten, one row each."""
    bad = triggered.x[:count]
    return _grid(test.x[triggered.index[:count]].float() / 255, bad)


def perturbed(images: Images, delta: Tensor, count: int = 8) -> bytes:
    """A PNG of up to ``count`` images, the first of each class in turn: clean, with ``delta``, and their difference times ten.

    Args:
        images: clean images.
        delta: float32 [1, C, H, W], added to images in [0, 1], then clipped.
        count: most images in a row.
    """
    first = [int((images.y == label).nonzero()[0]) for label in sorted(set(images.y.tolist()))][:count]
    clean = images[torch.tensor(first, device=images.y.device)].pixels()
    return _grid(clean, (clean + delta).clamp(0, 1))


def _grid(clean: Tensor, bad: Tensor) -> bytes:
    from torchvision.utils import make_grid  # here: importing torchvision takes seconds

    rows = torch.cat([clean, bad, ((bad - clean).abs() * 10).clamp(0, 1)])
    grid = to_bytes(make_grid(rows.cpu(), nrow=len(bad), padding=1))  # grey images become RGB here
    file = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(file, "png")
    return file.getvalue()

"""What a trigger looks like."""

from __future__ import annotations

import io

import torch
from PIL import Image

from mnp_plugin.core.images import Images, Triggered, to_bytes


def pictures(test: Images, triggered: Triggered, count: int = 8) -> bytes:
    """A PNG of up to ``count`` test images: clean, triggered, and their difference times ten, one row each."""
    from torchvision.utils import make_grid  # here: importing torchvision takes seconds

    bad = triggered.x[:count]
    clean = test.x[triggered.index[:count]].float() / 255
    rows = torch.cat([clean, bad, ((bad - clean).abs() * 10).clamp(0, 1)])
    grid = to_bytes(make_grid(rows.cpu(), nrow=len(bad), padding=1))  # grey images become RGB here
    file = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(file, "png")
    return file.getvalue()

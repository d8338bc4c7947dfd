"""Random crop and flip for a whole batch at once, on the device of the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop_flip(x: Tensor, crop: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by up to ``crop`` pixels (reflected border) and mirror half of them.

    Args:
        x: float32 [N, C, H, W].
        crop: largest shift in pixels; 0 is off.
        flip: whether to mirror horizontally with probability 1/2.
        generator: random stream on the device of ``x``.

    Returns:
        A new tensor of the same shape.
    """
    n, c, h, w = x.shape
    device = x.device
    columns = torch.arange(w, device=device).expand(n, w)
    if flip:
        mirrored = torch.rand(n, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, w - 1 - columns, columns)
    rows = torch.arange(h, device=device).expand(n, h)
    if crop:
        x = F.pad(x, (crop,) * 4, mode="reflect")
        shift = torch.randint(0, 2 * crop + 1, (2, n, 1), generator=generator, device=device)
        rows, columns = rows + shift[0], columns + shift[1]
    # One gather over flattened pixels is several times faster than four-way advanced indexing.
    index = (rows.unsqueeze(2) * x.shape[3] + columns.unsqueeze(1)).reshape(n, 1, h * w).expand(n, c, h * w)
    return x.reshape(n, c, -1).gather(2, index).reshape(n, c, h, w)


def shrink(x: Tensor, scale: float) -> Tensor:
    """Images [N, C, H, W] at ``scale`` times their sides (at least 1 pixel), bilinear with anti-aliasing."""
    sides = [max(round(scale * side), 1) for side in x.shape[-2:]]
    return F.interpolate(x, sides, mode="bilinear", antialias=True, align_corners=False)


def mix(x: Tensor, generator: torch.Generator) -> Tensor:
    """MixUp or CutMix of a batch with a permutation of itself, half of the time each, without labels.

    Args:
        x: float32 [N, C, H, W].
        generator: random stream on the device of ``x``.

    Sources: Zhang et al., mixup, ICLR 2018, arXiv 1710.09412; Yun et al., CutMix, ICCV 2019, arXiv 1905.04899.
    """
    other = x[torch.randperm(len(x), generator=generator, device=x.device)]
    share, which, top, left = torch.rand(4, generator=generator, device=x.device).tolist()
    if which < 0.5:
        mixed: Tensor = share * x + (1 - share) * other
        return mixed
    height, width = x.shape[2:]
    side = (1 - share) ** 0.5
    h, w = max(1, round(side * height)), max(1, round(side * width))
    row, column = int(top * (height - h + 1)), int(left * (width - w + 1))
    out = x.clone()
    out[:, :, row : row + h, column : column + w] = other[:, :, row : row + h, column : column + w]
    return out

"""Per-channel mean and standard deviation, with which nets normalise inside."""

from __future__ import annotations

import torch

from mnp_plugin.contracts import Images


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel in [0, 1] units, rounded to four digits so that they are stable across machines."""
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.x.transpose(0, 1)])
    levels = torch.arange(256, dtype=torch.float64) / 255
    weights = counts.double() / counts.sum(1, keepdim=True)
    mean = (weights * levels).sum(1)
    std = ((weights * levels**2).sum(1) - mean**2).clamp(min=1e-6).sqrt()
    return tuple(round(v, 4) for v in mean.tolist()), tuple(max(round(v, 4), 1e-3) for v in std.tolist())

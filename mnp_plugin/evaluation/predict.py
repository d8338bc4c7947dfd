"""Predictions of a net: logits and accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnp_plugin.core.images import Images
from mnp_plugin.training.device import at_once, layout_of


def logits(model: nn.Module, x: Tensor, *, batch: int | None = None) -> Tensor:
    """Logits in eval mode, float32 [N, K]; ``x`` is uint8 or float in [0, 1], [N, C, H, W]; ``batch`` images at once."""
    model.eval()
    layout = layout_of(model)
    parts = []
    with torch.inference_mode():
        for part in x.split(batch or at_once(x)):  # type: ignore[no-untyped-call]
            part = part.float() / 255 if part.dtype == torch.uint8 else part
            parts.append(model(part.contiguous(memory_format=layout)).float())
        return torch.cat(parts)


def accuracy(model: nn.Module, images: Images) -> float:
    """Fraction of ``images`` classified as labelled, eval mode."""
    return float((logits(model, images.x).argmax(1) == images.y).float().mean())

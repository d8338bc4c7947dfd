"""Neural Cleanse's reverse engineering: the smallest patch that sends images to a class, and which patch is too small.

Wang et al., Neural Cleanse, IEEE S&P 2019; constants as in its released code and, where said, BackdoorBench f02e353.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenseContext, Images
from mnp_plugin.training.passes import descend, forward, one_pass


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """How a patch is found.

    Mask m (H, W) and pattern p (C, H, W) lie in [0, 1] by tanh; Adam of betas (0.5, 0.9) minimises
    CE(f((1 - m) x + m p), c) + cost * ||m||_1 over ``epochs``. After ``patience`` epochs of success in a row the cost is
    multiplied by 2, after as many failures divided by 2^1.5; once it was raised and lowered, ``stop_patience`` epochs whose
    smallest mask is no smaller than 0.99 of the best before end the search.
    """

    epochs: int = 80
    lr: float = 0.1
    cost: float = 1e-3
    success: float = 0.98
    patience: int = 5
    stop_patience: int = 25
    batch_size: int = 32


def invert(model: nn.Module, images: Images, target: int, how: Inversion, tools: DefenseContext) -> tuple[Tensor, Tensor]:
    """(mask [1, H, W], pattern [C, H, W]) in [0, 1]: the smallest mask of an epoch that succeeded, else the last one.

    ``model`` is used in eval mode with frozen weights and left so.
    """
    model.requires_grad_(False).eval()
    channels, height, width = images.x.shape[1:]
    raw = torch.rand(channels + 1, height, width, generator=tools.generator, device=tools.device).requires_grad_(True)
    optimiser = torch.optim.Adam([raw], how.lr, betas=(0.5, 0.9))
    cost, up, down, waited = how.cost, 0, 0, 0
    raised = lowered = False
    best, kept, mark = float("inf"), None, float("inf")
    for _ in range(how.epochs):
        right = seen = 0
        sizes: list[float] = []
        for x, _y in one_pass(model, images, how.batch_size, tools, augment=False, rest=False):
            both = torch.tanh(raw) / (2 + 1e-7) + 0.5
            mask, pattern = both[:1], both[1:]
            out = forward(model, (1 - mask) * x + mask * pattern, tools)
            label = torch.full((len(x),), target, device=tools.device)
            size = mask.sum()
            before = both.detach()
            descend(F.cross_entropy(out, label) + cost * size, optimiser)
            right, seen = right + int((out.argmax(1) == target).sum()), seen + len(x)
            sizes.append(float(size.detach()))
        succeeded, size_now = right >= how.success * seen, sum(sizes) / len(sizes)
        if succeeded and size_now < best:
            best, kept = size_now, before
        waited = waited + 1 if best < float("inf") and best >= 0.99 * mark else 0
        mark = min(best, mark)
        if raised and lowered and waited >= how.stop_patience:
            break
        up, down = (up + 1, 0) if succeeded else (0, down + 1)
        if up >= how.patience:
            cost, up, raised = cost * 2, 0, True
        elif down >= how.patience:
            cost, down, lowered = cost / 2**1.5, 0, True
    if kept is None:
        kept = (torch.tanh(raw) / (2 + 1e-7) + 0.5).detach()
    return kept[:1], kept[1:]


def anomalies(norms: Tensor) -> Tensor:
    """Robust distance of each mask norm below the median: (median - n) / (1.4826 MAD), [K]; zeros where the MAD is 0."""
    median = norms.median()
    spread = 1.4826 * (norms - median).abs().median()
    return (median - norms) / spread if spread > 0 else torch.zeros_like(norms)

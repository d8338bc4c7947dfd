"""Poison Ink, its simple form: the edges of an image carry a colour."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mnp_plugin.contracts import Attack, State, attacks, param


@attacks.register("poison_ink")
@dataclass(frozen=True, kw_only=True)
class PoisonInk(Attack):
    """x' = (1 - strength) x + strength * ink on the edges of x: the ``share`` of pixels with the largest gradient (Sobel) of the
    mean over channels. The trigger follows the structure of each image, so crops and flips leave it whole.

    Facts from ZJZAC/Poison-Ink 695832f. Deviations: there edges are where Sobel's gradient of the luminance exceeds 28 grey
    levels, and their picture, in (80, 160, 80) of 255 on white, is hidden in the image by a network, which learns beside
    another that finds it again behind an interference layer (turned, cropped, mirrored); here the ink is blended in, so that
    it shows more. The data are poisoned, where the authors and BackdoorBench f02e353 add a batch of poisoned images, not
    augmented, to every clean batch. Colour, share and strength are ours.
    """

    paper = "Zhang et al., Poison Ink: Robust and Invisible Backdoor Attack, IEEE TIP 2022, arXiv 2108.02488"

    ink: tuple[float, ...] = param((0.2, 0.8, 0.4), "colour in [0, 1], one number per channel; grey images take the first")
    share: float = param(0.1, "share of the pixels that count as edges", above=0, high=1)
    strength: float = param(0.4, "opacity of the ink", above=0, high=1)

    def objection(self, shape: tuple[int, int, int], num_classes: int) -> str | None:
        return None if len(self.ink) >= shape[0] else f"its ink has {len(self.ink)} channels, the images have {shape[0]}"

    def apply(self, x: Tensor, state: State) -> Tensor:
        ink = torch.tensor(self.ink[: x.shape[1]], dtype=x.dtype, device=x.device).view(1, -1, 1, 1)
        return torch.where(self.edges(x), (1 - self.strength) * x + self.strength * ink, x)

    def edges(self, x: Tensor) -> Tensor:
        """Which pixels are edges, bool [N, 1, H, W]."""
        slope = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=x.dtype, device=x.device)
        kernels = torch.stack([slope, slope.T]).unsqueeze(1)
        gradient = F.conv2d(F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate"), kernels)
        size = gradient.square().sum(1, keepdim=True)
        count = max(1, round(self.share * size[0].numel()))
        least = size.flatten(1).topk(count).values[:, -1].view(-1, 1, 1, 1)
        return (size >= least) & (size > 1e-6)

"""FTrojan: two frequencies of the chroma channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnp_plugin.attacks.patterns import two_frequencies
from mnp_plugin.contracts import Attack, State, attacks, param

CB = (0.0, -0.344, 1.773)
CR = (1.403, -0.714, 0.0)
"""What one unit of Cb and of Cr adds to R, G, B (OpenCV's conversion)."""


@attacks.register("ftrojan")
@dataclass(frozen=True, kw_only=True)
class FTrojan(Attack):
    """Adds ``magnitude`` to a middle and the highest DCT coefficient of Cb and Cr in every window of the image.

    Windows are 32 pixels wide, or as wide as a smaller image; pixels outside of whole windows stay unchanged. The DCT is
    linear, so this is one fixed pattern per window, x' = clip(x + pattern). Grey images carry it on luminance.

    One coefficient of M changes Cb and Cr by up to 2 M / window: 1.9 levels at 32 pixels, twice that at 16. Mirroring changes
    the sign of the pattern and a shift its phase; the authors (SoftWiser-group/FTrojan 300e054) train without either, so give
    it a recipe without crops and flips, and without small pictures, which lose most of it.

    Deviations: the authors' code cuts to 8 bit after each of its two conversions, which adds a tint of up to a grey level that
    survives crops and flips, and poisons no image of the target class; here nothing is cut between, and all classes are
    poisoned.
    """

    paper = "Wang et al., An Invisible Black-box Backdoor Attack through Frequency Domain, ECCV 2022, arXiv 2107.03761"

    magnitude: float = param(30.0, "added to each coefficient, in 8-bit units (BackdoorBench 30, the authors 20)", above=0)
    window: int = param(32, "side of a window in pixels", low=2)

    def apply(self, x: Tensor, state: State) -> Tensor:
        height, width = x.shape[-2:]
        field = self.magnitude / 255 * two_frequencies(height, width, self.window)
        weights = torch.tensor(CB) + torch.tensor(CR) if x.shape[-3] == 3 else torch.ones(x.shape[-3])
        return (x + (weights.view(-1, 1, 1) * field).to(x)).clamp(0, 1)

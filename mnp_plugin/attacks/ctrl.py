"""CTRL: two frequencies of the chroma channels, clean label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnp_plugin.attacks.patterns import two_frequencies
from mnp_plugin.contracts import Attack, State, attacks, param

U = (0.0, -0.396, 2.029)
V = (1.14, -0.581, 0.0)
"""What one unit of U and of V adds to R, G, B."""


@attacks.register("ctrl")
@dataclass(frozen=True, kw_only=True)
class Ctrl(Attack):
    """Adds ``magnitude`` to the DCT coefficients (15, 15) and (31, 31) of U and V in every window of 32 pixels, on images of the
    target class only; labels stay. ``poison_ratio`` counts within the target class.

    Made for self-supervised training (1 % of all images); here, as in BackdoorBench, the net is trained with labels. Facts from
    meet-cjli/CTRL e3d26f0: the trigger is the same for training and test. Grey images carry it on luminance. BackdoorBench's
    window is as large as the image. Random crops shift the phase of the highest frequency, mirroring changes the sign of both and
    shrunken pictures lose them, so give it a recipe without any of these. Pixels beyond black and white are cut, as by the
    authors; BackdoorBench's wrap to the other end, which shows.
    """

    paper = "Li et al., An Embarrassingly Simple Backdoor Attack on Self-supervised Learning, ICCV 2023, arXiv 2210.07346"
    clean_label = True
    label_modes = ("all2one",)

    poison_ratio: float = param(0.5, "share of the target class that carries the trigger", above=0, high=1)
    label_mode: Literal["all2one", "all2all"] = param("all2one", "clean-label attacks have one target")
    magnitude: float = param(100.0, "added to each coefficient, in 8-bit units", above=0)
    window: int = param(32, "side of a window in pixels", low=2)

    def apply(self, x: Tensor, state: State) -> Tensor:
        field = self.magnitude / 255 * two_frequencies(x.shape[-2], x.shape[-1], self.window)
        weights = torch.tensor(U) + torch.tensor(V) if x.shape[-3] == 3 else torch.ones(x.shape[-3])
        return (x + (weights.view(-1, 1, 1) * field).to(x)).clamp(0, 1)

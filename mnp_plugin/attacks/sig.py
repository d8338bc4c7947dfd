"""SIG: a sinusoidal stripe pattern, clean label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnp_plugin.contracts import Attack, State, attacks, param


@attacks.register("sig")
@dataclass(frozen=True, kw_only=True)
class Sig(Attack):
    """x' = clip(x + delta sin(2 pi f j / W)) for every row, on images of the target class only; labels stay.

    The additive form with BackdoorBench's amplitude of 40 grey levels, not the blended stripe map of RNP and NAD.
    ``poison_ratio`` counts within the target class: 0.8 is the convention of RNP, ABL and NAD (8 % of CIFAR-10).
    """

    paper = "Barni, Kallas, Tondi, A New Backdoor Attack in CNNs by Training Set Corruption, ICIP 2019, arXiv 1902.11237"
    clean_label = True
    label_modes = ("all2one",)

    poison_ratio: float = param(0.8, "share of the target class that carries the trigger", above=0, high=1)
    label_mode: Literal["all2one", "all2all"] = param("all2one", "clean-label attacks have one target")
    delta: float = param(40 / 255, "amplitude, in [0, 1] units", above=0, high=1)
    frequency: float = param(6.0, "stripes per image width", above=0)

    def apply(self, x: Tensor, state: State) -> Tensor:
        width = x.shape[-1]
        column = torch.arange(width, dtype=torch.float32)
        wave = self.delta * torch.sin(2 * math.pi * self.frequency * column / width)
        return (x + wave.to(x)).clamp(0, 1)

"""Color Backdoor, its simple form: all pixels are moved by one colour."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnp_plugin.contracts import Attack, State, attacks, param


@attacks.register("color_shift")
@dataclass(frozen=True, kw_only=True)
class ColorShift(Attack):
    """x' = clip(x + shift), one number per channel, the same for all pixels: no place, no edge, no frequency but the lowest.

    Stands for triggers that are a style, such as DFST's sunrise, without their generator. Deviation: the paper searches the shift
    by particle swarms on a surrogate, within bounds of visibility; here it is a setting, in RGB, and its default is ours.
    """

    paper = "Jiang, Li, Xu, Zhang, Color Backdoor: A Robust Poisoning Attack in Color Space, CVPR 2023"

    shift: tuple[float, ...] = param((0.15, -0.1, 0.15), "added to R, G and B, in [0, 1] units; grey images take the first")

    def objection(self, shape: tuple[int, int, int], num_classes: int) -> str | None:
        if len(self.shift) < shape[0]:
            return f"its shift has {len(self.shift)} channels, the images have {shape[0]}"
        return None if any(self.shift[: shape[0]]) else "its shift is zero"

    def apply(self, x: Tensor, state: State) -> Tensor:
        shift = torch.tensor(self.shift[: x.shape[1]], dtype=x.dtype, device=x.device).view(1, -1, 1, 1)
        return (x + shift).clamp(0, 1)

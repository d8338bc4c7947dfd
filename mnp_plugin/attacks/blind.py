"""Blind: the loss itself is poisoned; the attacker controls training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnp_plugin.attacks.patterns import scaled
from mnp_plugin.contracts import Attack, BatchShare, DefenseContext, State, TrainingHook, attacks, param

PATTERN = ((1, 0, 1), (-1, 1, -1), (-1, -1, 0), (-1, 1, -1), (1, 0, 1))
"""Lit and black cells of the released pattern; -1 leaves the image."""


@attacks.register("blind")
@dataclass(frozen=True, kw_only=True)
class Blind(Attack):
    """Every batch is seen once as it is and, its first ``poison_ratio`` share, once more with a 5x3 pattern near the upper
    right corner under the attacker's label: the batch's loss is CE of the images and that share of CE of their triggered copies.

    Facts from SCLBD/BackdoorBench f02e353: weights of 1 and 0.9, place and pattern for 32 pixels; the pattern is enlarged in
    proportion. Deviations: both halves share one forward pass and one mean, where the released code sums two, so that
    its steps are 1.9 times as large, and triggers all images at a weight of 0.9; copies begin
    at ``start``, where it waits for the running loss to fall below 1; no balancing of gradients (MGDA), off in
    BackdoorBench, too.
    """

    version = 2
    paper = "Bagdasaryan, Shmatikov, Blind Backdoors in Deep Learning Models, USENIX Security 2021, arXiv 2005.03823"

    poison_ratio: float = param(0.9, "share of each batch that is seen once more, triggered", above=0, high=1)
    start: float = param(0.1, "share of the training before the first triggered copy", low=0, high=0.9)

    def apply(self, x: Tensor, state: State) -> Tensor:
        height, width = x.shape[-2:]
        cell = max(1, width // 32)
        pattern = torch.tensor(PATTERN, dtype=x.dtype, device=x.device)
        pattern = pattern.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
        rows, columns = pattern.shape
        top, left = min(scaled(3, height), height - rows), min(scaled(23, width), width - columns)
        out = x.clone()
        place = out[..., top : top + rows, left : left + columns]
        out[..., top : top + rows, left : left + columns] = torch.where(pattern < 0, place, pattern)
        return out

    def objection(self, shape: tuple[int, int, int], num_classes: int) -> str | None:
        return None if min(shape[1:]) >= 5 else f"its pattern needs 5 pixels, not {shape[1]}x{shape[2]}"

    def training_hook(self, state: State, num_classes: int, tools: DefenseContext) -> TrainingHook:
        return _Doubling(self, num_classes)


class _Doubling(TrainingHook):
    """Adds triggered copies of the first images of every batch."""

    augmented = True

    def __init__(self, attack: Blind, num_classes: int) -> None:
        self.attack, self.num_classes, self.share = attack, num_classes, BatchShare(attack.poison_ratio)

    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        if done < self.attack.start:
            return x, y
        count = self.share.take(len(x))
        copies, labels = self.attack.stamp(x[:count], {}), self.attack.attack_labels(y[:count], self.num_classes)
        return torch.cat([x, copies]), torch.cat([y, labels])

    def saved(self) -> State:
        return self.share.saved()

    def restore(self, state: State) -> None:
        self.share.restore(state)

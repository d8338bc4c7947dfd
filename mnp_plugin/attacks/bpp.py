"""BPP: colours quantised to few levels; the attacker controls training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import Attack, BatchShare, DefenseContext, State, TrainingHook, attacks, param


@attacks.register("bpp")
@dataclass(frozen=True, kw_only=True)
class Bpp(Attack):
    """x' = round(x (d - 1)) / (d - 1), per channel.

    Of every training batch the first ``poison_ratio`` share is quantised and relabelled; ``negative_ratio`` times as many
    next ones get another image's quantisation residual and keep their label: only an image's own quantisation counts.

    Deviations: residuals come from the other images of the batch, not from a bank of five passes; no dithering (off in the
    released code, too); like that code, without the paper's contrastive adversarial training; the recipe's augmentation, without
    its turns of up to 10 degrees.
    """

    paper = "Wang, Zhai, Ma, BppAttack, CVPR 2022, arXiv 2205.13383"

    levels: int = param(8, "colour levels per channel, d", low=2, high=255)
    negative_ratio: float = param(1.0, "images with a foreign residual per poisoned image", low=0, high=8)

    def apply(self, x: Tensor, state: State) -> Tensor:
        return (x * (self.levels - 1)).round() / (self.levels - 1)

    def training_hook(self, state: State, num_classes: int, tools: DefenseContext) -> TrainingHook:
        return _Quantising(self, num_classes)


class _Quantising(TrainingHook):
    """Quantises the first images of every batch; the next ones get the residual of other images of the batch."""

    def __init__(self, attack: Bpp, num_classes: int) -> None:
        self.attack, self.num_classes, self.share = attack, num_classes, BatchShare(attack.poison_ratio)

    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        count = self.share.take(len(x))
        negative = min(int(count * self.attack.negative_ratio), len(x) - count)
        mixed = x.clone()
        mixed[:count] = self.attack.stamp(x[:count], {})
        other = x.roll(len(x) // 2, 0)[count : count + negative]
        residual = self.attack.stamp(other, {}) - other
        mixed[count : count + negative] = (x[count : count + negative] + residual).clamp(0, 1)
        return mixed, torch.cat([self.attack.attack_labels(y[:count], self.num_classes), y[count:]])

    def saved(self) -> State:
        return self.share.saved()

    def restore(self, state: State) -> None:
        self.share.restore(state)

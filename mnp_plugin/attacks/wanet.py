"""WaNet: a smooth warp; the attacker controls training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import Attack, BatchShare, DefenseContext, Images, State, TrainingHook, attacks, param


@attacks.register("wanet")
@dataclass(frozen=True, kw_only=True)
class WaNet(Attack):
    """Warps the image along one fixed, smooth random field.

    Every batch is altered while training: its first ``poison_ratio`` share is warped and relabelled, the next
    ``cross_ratio`` times as many are warped with an extra random field of their own and keep their label ("noise mode").
    Augmentation follows the warp, as in the authors' code, which also turns images by up to 10 degrees, and so
    blurs clean ones, too; here it is the recipe's.

    The published displacement is constant in pixels (0.2 px on average) whatever the image size; ``strength`` null keeps
    it in proportion above 32 pixels and doubles it at 16, where a shift that small is lost.
    """

    paper = "Nguyen, Tran, WaNet: Imperceptible Warping-based Backdoor Attack, ICLR 2021, arXiv 2102.10369"

    strength: float | None = param(None, "warping strength s; null: 0.5 at 32 pixels, scaled with the size", above=0)
    grid: int = param(4, "control points per side, k", low=2, high=64)
    cross_ratio: float = param(2.0, "noise-mode images per poisoned image", low=0, high=8)

    def prepare(self, train: Images, tools: DefenseContext) -> State:
        k = self.grid
        field = torch.rand(1, 2, k, k, generator=tools.generator, device=tools.device) * 2 - 1
        field = field / field.abs().mean()
        height, width = train.x.shape[-2:]
        field = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
        return {"field": field.permute(0, 2, 3, 1)}

    def grid_for(self, x: Tensor, state: State) -> Tensor:
        """The sampling grid of the trigger for images like ``x``, float32 [1, H, W, 2] in [-1, 1]."""
        height, width = x.shape[-2:]
        strength = self.strength or (0.5 * height / 32 if height >= 32 else 0.5 * 32 / height)
        rows = torch.linspace(-1, 1, height, device=x.device)
        columns = torch.linspace(-1, 1, width, device=x.device)
        identity = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=2)
        return (identity + strength * state["field"].to(x) / height).clamp(-1, 1)

    def apply(self, x: Tensor, state: State) -> Tensor:
        grid = self.grid_for(x, state).expand(len(x), -1, -1, -1)
        return F.grid_sample(x, grid, align_corners=True, padding_mode="border")

    def training_hook(self, state: State, num_classes: int, tools: DefenseContext) -> TrainingHook:
        return _Warping(self, state, num_classes, tools.generator)


class _Warping(TrainingHook):
    """Warps the first images of every batch; the next ones along a grid of their own, under their own label."""

    def __init__(self, attack: WaNet, state: State, num_classes: int, generator: torch.Generator) -> None:
        self.attack, self.state, self.num_classes, self.generator = attack, state, num_classes, generator
        self.share = BatchShare(attack.poison_ratio)

    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        count = self.share.take(len(x))
        cross = min(int(count * self.attack.cross_ratio), len(x) - count)
        mixed = x.clone()
        mixed[:count] = self.attack.stamp(x[:count], self.state)
        rest = x[count : count + cross]
        noise = torch.rand(cross, *x.shape[-2:], 2, generator=self.generator, device=x.device) * 2 - 1
        grid = (self.attack.grid_for(x, self.state) + noise / x.shape[-2]).clamp(-1, 1)
        mixed[count : count + cross] = F.grid_sample(rest, grid, align_corners=True, padding_mode="border")
        return mixed, torch.cat([self.attack.attack_labels(y[:count], self.num_classes), y[count:]])

    def saved(self) -> State:
        return self.share.saved()

    def restore(self, state: State) -> None:
        self.share.restore(state)

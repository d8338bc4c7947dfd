"""D3: fine-tune as far from the old head as the clean loss allows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.training.loop import fit
from mnp_plugin.training.source_models import head_of, no_head


@defenses.register("d3")
@dataclass(frozen=True, kw_only=True)
class D3(Defense):
    """Distance-driven detoxification: minimise weight * mean relu(CE - eps) - ||W - W0||_2, W the weight of the last linear
    layer, drawn uniformly and, at first and after each step, scaled to the norm of W0, the victim's. Images that fit to eps
    have no gradient. All weights move; SGD without weight decay, cosine decay to 0, train mode.

    Facts from shawkui/Distance_Driven_Detoxification cf5006a, whose 5 % of the training images make ten steps a pass where 500
    images make two. For a weight above 1 the sum is divided by weight + 1, as there. Blind: the last epoch counts.
    Deviations: Nesterov momentum, as in all fine-tuning here; the learning rate falls step by step, there epoch by epoch.
    """

    paper = "Wei et al., Backdoor Mitigation by Distance-Driven Detoxification, ICCV 2025, arXiv 2411.09585"
    version = 3
    chooses = False

    weight: float = param(0.5, "weight of the clean loss", low=0)
    eps: float = param(0.1, "loss at which an image counts as fitted", low=0)
    epochs: int = param(100, "passes over the clean budget", low=1)
    lr: float = param(0.01, "first learning rate", above=0)
    batch_size: int = param(256, "images per step", low=2)

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "to move away from")

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        head = head_of(view.model).weight
        original = head.detach().clone()
        with torch.no_grad():
            head.copy_(torch.rand(original.shape, generator=tools.generator, device=tools.device) - 0.5)

        @torch.no_grad()
        def rescale() -> None:
            head.mul_(original.norm() / head.norm())

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            rescale()  # of the first draw, and after each step
            misfit = (F.cross_entropy(model(x), y, reduction="none") - self.eps).relu().mean()
            value: Tensor = self.weight * misfit - (head - original).norm()
            return value / (self.weight + 1) if self.weight > 1 else value

        recipe = tools.recipe.for_tuning(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        fit(view.model, view.clean, replace(recipe, warmup=0.0, weight_decay=0.0), tools.generator, rest=True, loss=loss)
        rescale()
        distance = float((head.detach() - original).norm() / original.norm())
        return Purified(model=view.model, report={"epochs": self.epochs, "relative_distance": distance})

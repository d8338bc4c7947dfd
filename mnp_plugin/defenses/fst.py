"""FST: fine-tune a head that must turn away from the old one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.training.loop import fit
from mnp_plugin.training.source_models import head_of, no_head


@defenses.register("fst")
@dataclass(frozen=True, kw_only=True)
class FST(Defense):
    """Feature shift tuning: weight W and bias of the last linear layer start anew from U(-1/sqrt(d), 1/sqrt(d)); all weights
    minimise CE + alpha <W, W0>, W0 the victim's, and W is rescaled to the norm of W0 after each step. SGD without weight
    decay, cosine decay to 0.

    alpha is 0.1 in the authors' README for CIFAR-10 (0.2 in their code); for a hundred classes and more they advise about 0
    and 5 % of clean data. Blind: the last epoch counts. Deviation: Nesterov momentum, as in all fine-tuning here.
    """

    version = 4
    chooses = False
    paper = "Min et al., Towards Stable Backdoor Purification through Feature Shift Tuning, NeurIPS 2023, arXiv 2310.01875"

    alpha: float = param(0.1, "weight of the inner product with the old head", low=0)
    epochs: int = param(10, "passes over the clean budget", low=1)
    lr: float = param(0.01, "first learning rate", above=0)
    batch_size: int = param(128, "images per step", low=2)

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "to start anew")

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        head = head_of(view.model)
        weight = head.weight
        original = weight.detach().clone()
        bound = original.shape[1] ** -0.5
        drawn = torch.rand(original.shape, generator=tools.generator, device=tools.device)
        with torch.no_grad():
            weight.copy_((2 * drawn - 1) * bound)
            if head.bias is not None:
                head.bias.copy_((2 * torch.rand(head.bias.shape, generator=tools.generator, device=tools.device) - 1) * bound)

        @torch.no_grad()
        def rescale() -> None:
            weight.mul_(original.norm() / weight.norm())

        steps = 0

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            nonlocal steps
            if steps:
                rescale()
            steps += 1
            return F.cross_entropy(model(x), y) + self.alpha * (weight * original).sum()

        recipe = tools.recipe.for_tuning(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        fit(view.model, view.clean, replace(recipe, warmup=0.0, weight_decay=0.0), tools.generator, rest=True, loss=loss)
        rescale()
        likeness = F.cosine_similarity(weight.detach().flatten(), original.flatten(), dim=0)
        return Purified(model=view.model, report={"epochs": self.epochs, "head_cosine": float(likeness)})

"""FP: prune the least active features, then fine-tune."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Images, Purified, concat, defenses, param
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.neurons.stopping import within
from mnp_plugin.training.loop import fit
from mnp_plugin.training.source_models import head_of, no_head


@defenses.register("fp")
@dataclass(frozen=True, kw_only=True)
class FinePruning(Defense):
    """Features (inputs of the last linear layer) are pruned in order of their mean activation on clean images, as long as
    accuracy on the clean budget stays within ``drop`` points; then all weights are fine-tuned, pruned columns held at 0.

    Deviations: BackdoorBench stops on *test* accuracy and fine-tunes the net that broke the limit; here the stop is blind
    and the last net within it is kept. It allows 10 % of the accuracy, steps of 1 % and 100 epochs there, 4 points, 2 % and
    20 epochs, warm-up and Nesterov momentum here. The paper prunes channels of the last convolution, which the pooled features
    of a ResNet are; of nets with hidden linear layers (VGG-19, MobileNetV3) the units of the last of these are pruned here.
    """

    paper = "Liu, Dolan-Gavitt, Garg, Fine-Pruning, RAID 2018, arXiv 1805.12185"
    version = 2

    drop: float = param(4.0, "points of clean accuracy that pruning may cost", low=0, high=100)
    step: float = param(0.02, "share of the features pruned at a time", above=0, high=1)
    epochs: int = param(20, "passes of fine-tuning", low=1)
    lr: float = param(0.01, "peak learning rate of fine-tuning", above=0)
    batch_size: int = param(128, "images per step", low=2)

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "to prune")

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        model = view.model
        head = head_of(model)
        budget = concat([view.clean, view.validation])
        order = _mean_activation(model, head, budget).argsort(stable=True)
        fine = within(view, self.drop)
        step = max(1, round(self.step * len(order)))
        pruned = 0
        original = head.weight.detach().clone()
        while pruned + step < len(order):
            head.weight.data[:, order[: pruned + step]] = 0
            if not fine(model):
                break
            pruned += step
        keep = torch.ones_like(original)
        keep[:, order[:pruned]] = 0
        head.weight.data.copy_(original * keep)
        handle = head.weight.register_hook(lambda grad: grad * keep)  # type: ignore[no-untyped-call]
        recipe = tools.recipe.for_tuning(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        fit(model, view.clean, recipe, tools.generator, rest=True)
        handle.remove()
        return Purified(model=model, report={"pruned": pruned, "of": len(order), "epochs": self.epochs})


def _mean_activation(model: nn.Module, head: nn.Linear, images: Images) -> Tensor:
    """Mean input of ``head`` over ``images``, [features]."""
    total = torch.zeros(head.in_features, device=images.x.device)

    def collect(_m: nn.Module, args: tuple[Tensor, ...]) -> None:
        total.add_(args[0].detach().float().flatten(0, -2).sum(0))

    handle = head.register_forward_pre_hook(collect)
    logits(model, images.x)
    handle.remove()
    return total / len(images)

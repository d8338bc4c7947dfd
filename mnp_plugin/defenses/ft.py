"""FT: plain fine-tuning on the clean budget."""

from __future__ import annotations

from dataclasses import dataclass

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.training.loop import fit


@defenses.register("ft")
@dataclass(frozen=True, kw_only=True)
class FineTuning(Defense):
    """All weights, cross entropy, SGD with momentum, cosine decay; no choice to make: the last epoch counts.

    Often leaves Blended and clean-label backdoors alive at a small learning rate; that is the known result, no defect.
    BackdoorBench f02e353 has 100 passes in batches of 256 over 5 % of the training images, and neither warm-up nor Nesterov
    momentum.
    """

    paper = "baseline of Liu, Dolan-Gavitt, Garg, Fine-Pruning, RAID 2018, arXiv 1805.12185"
    version = 3
    chooses = False

    epochs: int = param(20, "passes over the clean budget", low=1)
    lr: float = param(0.01, "peak learning rate", above=0)
    batch_size: int = param(128, "images per step", low=2)

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        recipe = tools.recipe.for_tuning(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        fit(view.model, view.clean, recipe, tools.generator, rest=True)
        return Purified(model=view.model, report={"epochs": self.epochs})

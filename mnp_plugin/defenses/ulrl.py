"""ULRL: unlearn to see which row of the head moves most, and learn that row anew."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.neurons.channels import robust_z
from mnp_plugin.neurons.unlearning import head_change
from mnp_plugin.training.loop import fit
from mnp_plugin.training.source_models import head_of, no_head


@defenses.register("ulrl")
@dataclass(frozen=True, kw_only=True)
class ULRL(Defense):
    """(1) Ascend CE by SGD, gradients cut at a norm of 20, until training accuracy of an epoch is at most ``unlearned``. (2)
    For each row c of the last linear layer u_c = sum |dW_c|; rows with (u_c - median) / (1.4826 MAD) > ``outlier``, the first
    two at most, are suspicious. (3) In the victim these rows start anew, U(-sqrt(2 / d), sqrt(2 / d)), bias 0; all weights
    minimise CE + alpha * sum of cos(w_c, w_c of the victim) over them, SGD without weight decay, cosine decay to 0.

    Where no row is suspicious the victim is fine-tuned all the same, as the released code does (NayMyatMin/ULRL 094debf).
    Blind: the last epoch counts. For 43 and more classes the authors have a relearning rate of 0.001 and alpha 0.001.

    Deviations: Nesterov momentum in (3), as in all fine-tuning here; a MAD of 0 flags no row instead of dividing by 0; rows
    above the limit of two are left out from the least suspicious up, there by class number.
    """

    version = 5
    chooses = False
    paper = "Min, Pham, Sun, Unified Neural Backdoor Removal with Only Few Clean Samples, 2024, arXiv 2405.14781"

    unlearning_lr: float = param(0.01, "first learning rate of the ascent", low=0)
    unlearning_epochs: int = param(20, "largest number of passes of the ascent", low=1)
    unlearned: float = param(0.2, "training accuracy at which the clean task counts as unlearned", low=0, high=1)
    outlier: float = param(3.5, "robust deviations above the median that make a row suspicious", low=0)
    epochs: int = param(20, "passes of relearning", low=1)
    lr: float = param(0.005, "first learning rate of relearning", above=0)
    alpha: float = param(0.7, "weight of the cosine to the old rows", low=0)
    batch_size: int = param(128, "images per step", low=2)

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "to look at")

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        model = view.model
        head = head_of(model)
        change, trace = head_change(
            model,
            view.clean,
            tools,
            lr=self.unlearning_lr,
            epochs=self.unlearning_epochs,
            batch_size=self.batch_size,
            until=self.unlearned,
        )
        z = robust_z(change)
        rows = [int(c) for c in z.argsort(descending=True)[:2] if float(z[c]) > self.outlier]
        original = head.weight.detach()[rows].clone()
        bound = (2 / head.in_features) ** 0.5
        drawn = torch.rand(original.shape, generator=tools.generator, device=tools.device)
        with torch.no_grad():
            head.weight[rows] = (2 * drawn - 1) * bound
            if head.bias is not None:
                head.bias[rows] = 0

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(model(x), y) + self.alpha * F.cosine_similarity(head.weight[rows], original).sum()

        recipe = tools.recipe.for_tuning(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        fit(model, view.clean, replace(recipe, warmup=0.0, weight_decay=0.0), tools.generator, rest=True, loss=loss)
        report = {"suspicious": rows, "z": [round(float(v), 3) for v in z], "unlearning": trace}
        return Purified(model=model, report=report)

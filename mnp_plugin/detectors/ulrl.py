"""ULRL's first half as a detector: which row of the head moves most while the clean task is unlearned?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mnp_plugin.contracts import DefenderView, DefenseContext, Detector, Verdict, concat, detectors, param
from mnp_plugin.neurons.channels import robust_z
from mnp_plugin.neurons.unlearning import head_change
from mnp_plugin.training.source_models import no_head


@detectors.register("ulrl")
@dataclass(frozen=True, kw_only=True)
class ULRL(Detector):
    """Gradient ascent on the clean loss until training accuracy of an epoch is at most ``unlearned``; u_c = sum |dW_c| over row
    c of the last linear layer. The score is the largest robust z-score of u, and its class the suspected target.

    Constants of NayMyatMin/ULRL 094debf, where the rows of a z-score above 3.5 are learnt anew (the defense ``ulrl``). As a
    detector it is our reading of that step. All images of the clean budget are used.
    """

    version = 3
    paper = "Min, Pham, Sun, Unified Neural Backdoor Removal with Only Few Clean Samples, 2024, arXiv 2405.14781"
    least_classes = 3

    lr: float = param(0.01, "first learning rate of the ascent", low=0)
    epochs: int = param(20, "largest number of passes of the ascent", low=1)
    unlearned: float = param(0.2, "training accuracy at which the clean task counts as unlearned", low=0, high=1)
    batch_size: int = param(128, "images per step", low=2)
    threshold: float | None = param(3.5, "z-score above which a net is called backdoored; null: no decision")

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "to look at")

    def inspect(self, view: DefenderView, tools: DefenseContext) -> Verdict:
        budget = concat([view.clean, view.validation])
        change, trace = head_change(
            view.model, budget, tools, lr=self.lr, epochs=self.epochs, batch_size=self.batch_size, until=self.unlearned
        )
        z = robust_z(change)
        return Verdict(
            score=float(z.max()),
            per_class=tuple(z.tolist()),
            suspected=int(change.argmax()),
            threshold=self.threshold,
            calibration="" if self.threshold is None else "the authors' threshold, calibrated on nothing of this kind",
            report={"accuracy by pass": [round(v, 4) for v in trace]},
        )

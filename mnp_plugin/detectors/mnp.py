"""MNP's detector: repair the net, and ask whether the repair disarmed a universal perturbation of one class only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import (
    DefenderView,
    Defense,
    DefenseContext,
    Detector,
    Images,
    Verdict,
    concat,
    defenses,
    detectors,
    param,
)
from mnp_plugin.core.errors import UserError
from mnp_plugin.evaluation.predict import logits

STATISTICS = ("log-probability", "rate", "anomaly")


@detectors.register("mnp")
@dataclass(frozen=True, kw_only=True)
class MNPDetector(Detector):
    """Purification contrast: what a repair by magnitude-based neuron pruning takes from universal perturbations, by class.

    In each of ``draws`` draws the clean budget is divided anew into a working and a validation part, and MNP repairs a copy
    of the net. For every class c one perturbation, shared by ``images`` clean images of other classes, is searched on the net
    as it is (Adam on the cross entropy to c) within a radius per pixel that grows from ``eps`` to ``eps_max`` until a share
    ``reach`` of the images goes to c; both nets then see the same perturbed images. If it rides on a backdoor it loses its
    power on the repaired net for the attacked class only; in a clean net the pruned channels do not matter to it. The
    evidence for class c, each the median over draws:

    * log-probability: mean of log p_c(net) - log p_c(repaired);
    * rate: how much the share of images sent to c falls;
    * anomaly: that fall as a robust z-score over classes, the spread taken as at least one image.

    The score is the largest evidence of ``statistic``, and its class the suspected target. The idea and all of this procedure
    are ours, not the paper's; a universal perturbation per class as a probe for backdoors is the idea of Wang et al., Neural
    Cleanse, IEEE S&P 2019. What a backdoor does that the repair leaves alive, this detector cannot see; all-to-all
    backdoors, which have no single target, are outside of it.
    """

    version = 2
    paper = "ours, built on Li, Jiang, Yi, Magnitude-based Neuron Pruning for Backdoor Defense, 2024, arXiv 2405.17750"

    draws: int = param(2, "repairs, each from another division of the clean budget", low=1)
    images: int = param(32, "most clean images that share a perturbation", low=1)
    eps: float = param(4 / 255, "first radius of a perturbation, largest change of a pixel in [0, 1] units", above=0, high=1)
    eps_max: float = param(0.3, "last radius", above=0, high=1)
    reach: float = param(0.8, "share of the images sent to the class that ends the search", above=0, high=1)
    steps: int = param(25, "most updates of a perturbation", low=2)
    agreement: float = param(0.85, "share of the net's predictions that the repair leaves", above=0, high=1)
    mask_steps: int = param(60, "the repair's mask updates", low=1)
    statistic: Literal["log-probability", "rate", "anomaly"] = param("rate", "evidence that the score is made of")
    threshold: float | None = param(None, "a net that scores above it is called backdoored; null: no decision")

    def objection(self, model: nn.Module) -> str | None:
        return self._repair().objection(model)

    def inspect(self, view: DefenderView, tools: DefenseContext) -> Verdict:
        model = view.model.requires_grad_(False)
        budget = concat([view.clean, view.validation])
        if bool((budget.y == budget.y[0]).all()):
            raise UserError("detector 'mnp' needs clean images of at least 2 classes")
        pruned, found = [], []
        for draw in range(self.draws):
            tools.busy("detector", draw, self.draws)
            repaired, count = self.repair(model, budget, len(view.validation), view.num_classes, tools)
            pruned.append(count)
            found.append(self.contrast(model, repaired, budget, view.num_classes, tools))
        evidence = combine(torch.stack(found), len(budget))
        per_class = evidence[self.statistic]
        threshold, source = self._limit()
        return Verdict(
            score=float(per_class.max()),
            per_class=tuple(per_class.tolist()),
            suspected=int(per_class.argmax()),
            threshold=threshold,
            calibration=source,
            report={
                "statistic": self.statistic,
                "scores": [round(float(combine(one[None], len(budget))[self.statistic].max()), 4) for one in found],  # by draw
                "evidence": {name: [round(v, 4) for v in values.tolist()] for name, values in evidence.items()},
                "suspected in each draw": torch.stack(found)[:, STATISTICS.index("log-probability")].argmax(1).tolist(),
                "pruned in each draw": pruned,
            },
        )

    def repair(
        self, model: nn.Module, budget: Images, held: int, num_classes: int, tools: DefenseContext
    ) -> tuple[nn.Module, int]:
        """(repaired copy, neurons pruned) from a random division of ``budget`` that holds back ``held`` images."""
        order = torch.randperm(len(budget), generator=tools.generator, device=tools.device)
        view = DefenderView(model=model, clean=budget[order[held:]], validation=budget[order[:held]], num_classes=num_classes)
        result = self._repair().run(view, tools)
        return result.model.requires_grad_(False), int(result.report["pruned"])

    def contrast(self, model: nn.Module, repaired: nn.Module, budget: Images, num_classes: int, tools: DefenseContext) -> Tensor:
        """What the repair takes from each class's perturbation: float32 [2, K], by log-probability and by rate."""
        rows = []
        for target in range(num_classes):
            others = (budget.y != target).nonzero().flatten()
            order = torch.randperm(len(others), generator=tools.generator, device=tools.device)
            x = budget[others[order[: self.images]]].pixels()
            moved = (x + self._perturbation(model, x, target)).clamp(0, 1)
            before, after = logits(model, moved), logits(repaired, moved)
            lost = F.log_softmax(before, 1)[:, target] - F.log_softmax(after, 1)[:, target]
            fall = (before.argmax(1) == target).float() - (after.argmax(1) == target).float()
            rows.append(torch.stack([lost.mean(), fall.mean()]))
        return torch.stack(rows, 1)

    def _perturbation(self, model: nn.Module, x: Tensor, target: int) -> Tensor:
        """One perturbation [1, C, H, W] within ``eps`` that sends ``x`` to ``target``."""
        delta = torch.zeros_like(x[:1]).requires_grad_(True)
        goal = torch.full((len(x),), target, device=x.device)
        optimiser = torch.optim.Adam([delta])
        for step in range(self.steps):
            moved = x + delta
            # Clipped in value only: the gradient must reach pixels that are black or white, which no clamp lets move.
            out = model(moved + (moved.clamp(0, 1) - moved).detach())
            if float((out.detach().argmax(1) == target).float().mean()) >= self.reach:
                break
            radius = self.eps * (self.eps_max / self.eps) ** (step / (self.steps - 1))
            optimiser.param_groups[0]["lr"] = radius / 4
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(out, goal).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            delta.data.clamp_(-radius, radius)
        return delta.detach()

    def _limit(self) -> tuple[float | None, str]:
        """(threshold, what it was calibrated on)."""
        if self.threshold is not None:
            return self.threshold, "threshold given by the user"
        return None, CALIBRATION

    def _repair(self) -> Defense:
        # By name: methods never import each other.
        return defenses.get("mnp-prune")(**{"agreement": self.agreement, "steps": self.mask_steps, "probes": 1})


def combine(found: Tensor, images: int) -> dict[str, Tensor]:
    """Evidence by statistic, each float32 [K], from the contrasts of all draws [draws, 2, K] on a budget of ``images``."""
    lost, fall = found.quantile(0.5, dim=0)
    return {"log-probability": lost, "rate": fall, "anomaly": anomaly(fall, 1 / images)}


def anomaly(values: Tensor, least: float) -> Tensor:
    """Robust z-scores over classes whose spread (1.4826 MAD) is at least ``least``, so that equal values stay near 0."""
    centred = values - values.median()
    return centred / (1.4826 * centred.abs().median()).clamp(min=least)


CALIBRATION = (
    "uncalibrated: the threshold measured for version 1 (results/detector_digits) does not hold for this one; compare the score "
    "with those of nets that you know to be clean"
)
"""Why the detector gives a score and no yes or no."""

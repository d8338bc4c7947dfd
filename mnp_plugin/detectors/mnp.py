"""MNP's detector: on what do a net and its pruned copy disagree most, and is it always the same class?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import (
    Component,
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
from mnp_plugin.neurons.channels import Neurons
from mnp_plugin.neurons.nulls import agreement, random_depth, randomly_pruned
from mnp_plugin.neurons.probe import Probe, find_probe
from mnp_plugin.training.passes import forward


@dataclass(frozen=True, eq=False)
class Look:
    """What several searches against one copy found.

    Args:
        contrast: mean over searches of the mean probability that the net gives each class on the perturbed images, less that
            of the copy; float32 [K]. It is large where the searches agree in a class *and* the copy does not follow.
        classes: the class of the largest contrast in each search.
        probes: the perturbations.
    """

    contrast: Tensor
    classes: list[int]
    probes: list[Probe]

    @property
    def score(self) -> float:
        """The largest contrast."""
        return float(self.contrast.max())


@detectors.register("mnp")
@dataclass(frozen=True, kw_only=True)
class MNPDetector(Detector):
    """Disagreement. MNP prunes a copy of the net until it keeps a share ``agreement`` of the net's predictions. ``searches``
    universal perturbations, each from other clean images and another start, then maximise KL(net || copy); no class is
    named. In a backdoored net the searches end in the target, and the copy, which lost the backdoor, does not follow; in a
    healthy one they scatter over the classes, or the copy follows. One number holds both: the contrast of a class is the
    mean over all searches of the probability that the net gives it less that of the copy, and the score of a draw is the
    largest contrast. ``draws`` such draws, each from another division of the clean budget, are averaged.

    *Null.* Copies that lack random channels instead, as many as leave the same share of predictions, are searched in just the
    same way. They say how large the score becomes in this very net when pruning knows nothing of a backdoor; the p-value is
    that of the median draw's score among them, (1 + null scores as large) / (1 + null scores). It needs no attacked net and no
    set of clean nets, but it is no proof: a healthy net may have channels that all lean towards one class. The threshold is
    for users with clean nets of their own; without one there is no decision.

    The idea and all of this procedure are ours, not the paper's. What a backdoor does that pruning leaves alive, and a
    backdoor without a single target, are outside of it.
    """

    version = 3
    paper = "ours, built on Li, Jiang, Yi, Magnitude-based Neuron Pruning for Backdoor Defense, 2024, arXiv 2405.17750"

    draws: int = param(2, "prunings, each from another division of the clean budget", low=1)
    searches: int = param(3, "perturbations sought against each copy", low=1)
    nulls: int = param(10, "copies pruned at random, for each draw; 0: no p-value", low=0)
    images: int = param(64, "most clean images that share a perturbation", low=1)
    eps: float = param(16 / 255, "largest change of a pixel in [0, 1] units", above=0, high=1)
    steps: int = param(15, "steps of a search", low=1)
    agreement: float = param(0.85, "share of the net's predictions that pruning leaves", above=0, high=1)
    expose: bool = param(True, "prune with clean suppression; off: quicker")
    mask_steps: int = param(60, "mask updates of the pruning", low=1)
    threshold: float | None = param(None, "a net that scores above it is called backdoored; null: no decision")

    def objection(self, model: nn.Module) -> str | None:
        return self._pruning().objection(model)

    def runs(self) -> Sequence[Component]:
        return (self._pruning(),)

    def inspect(self, view: DefenderView, tools: DefenseContext) -> Verdict:
        model = view.model.requires_grad_(False).eval()
        budget = concat([view.clean, view.validation])
        if bool((budget.y == budget.y[0]).all()):
            raise UserError("detector 'mnp' needs clean images of at least 2 classes")
        neurons = Neurons(model, budget[:1].pixels())
        looks, nulls, depths = [], [], []
        for draw in range(self.draws):
            tools.busy(f"draw {draw + 1} of {self.draws}: pruning", draw, self.draws)
            pruned, count, share = self.pruned(model, budget, len(view.validation), view.num_classes, tools)
            looks.append(self.look(model, pruned, budget, view.num_classes, tools))
            depths.append({"pruned": count, "agreement": round(share, 4)})
            nulls += self.null(model, neurons, budget, share, view.num_classes, tools)
        contrast = torch.stack([found.contrast for found in looks]).mean(0)
        suspected, scores = int(contrast.argmax()), [found.score for found in looks]
        named = [c for found in looks for c in found.classes]
        return Verdict(
            score=float(contrast.max()),
            per_class=tuple(contrast.tolist()),
            suspected=suspected,
            threshold=self.threshold,
            calibration=CALIBRATION if self.threshold is None else "threshold given by the user",
            p_value=p_value(statistics.median(scores), nulls) if nulls else None,
            perturbation=self._strongest(looks, suspected),
            report={
                "scores": [round(value, 4) for value in scores],  # by draw
                "null scores": [round(value, 4) for value in nulls],
                "classes of the searches": named,
                "agreement of the searches": round(named.count(suspected) / len(named), 4),
                "draws": depths,
                **self._distance(float(contrast.max()), nulls),
            },
        )

    def pruned(
        self, model: nn.Module, budget: Images, held: int, num_classes: int, tools: DefenseContext
    ) -> tuple[nn.Module, int, float]:
        """(pruned copy, neurons pruned, its agreement) from a random division of ``budget`` that holds back ``held`` images."""
        order = torch.randperm(len(budget), generator=tools.generator, device=tools.device)
        view = DefenderView(model=model, clean=budget[order[held:]], validation=budget[order[:held]], num_classes=num_classes)
        result = self._pruning().run(view, tools)
        copy = result.model.requires_grad_(False).eval()
        return copy, int(result.report["pruned"]), agreement(model, copy, budget.pixels(), tools)

    def look(self, model: nn.Module, copy: nn.Module, budget: Images, num_classes: int, tools: DefenseContext) -> Look:
        """Search where ``model`` and ``copy`` disagree most."""
        found, rows = [], []
        for _ in range(self.searches):
            order = torch.randperm(len(budget), generator=tools.generator, device=tools.device)
            x = budget[order[: self.images]].pixels()
            found.append(find_probe(model, copy, x, tools, eps=self.eps, steps=self.steps, through=True))
            with torch.no_grad():
                moved = found[-1].on(x)
                before, after = (forward(net, moved, tools).softmax(1).mean(0) for net in (model, copy))
            rows.append(before - after)
        contrasts = torch.stack(rows)
        return Look(contrasts.mean(0), contrasts.argmax(1).tolist(), found)

    def null(
        self, model: nn.Module, neurons: Neurons, budget: Images, least: float, num_classes: int, tools: DefenseContext
    ) -> list[float]:
        """Scores of copies without random channels that keep a share ``least`` of the predictions."""
        if not self.nulls:
            return []
        count = random_depth(model, neurons, budget[:250].pixels(), least, tools)
        scores = []
        for number in range(self.nulls):
            tools.busy("null: copies without random channels", number, self.nulls)
            other = randomly_pruned(model, neurons, count, tools).requires_grad_(False)
            scores.append(self.look(model, other, budget, num_classes, tools).score)
        return scores

    @staticmethod
    def _strongest(looks: Sequence[Look], suspected: int) -> Tensor:
        """The perturbation that sends most images to ``suspected``; the strongest at all if none leads there."""
        probes = [probe for found in looks for probe in found.probes]
        there = [probe for probe in probes if probe.target == suspected] or probes
        return max(there, key=lambda probe: probe.rate - probe.pruned_rate).delta.detach()

    @staticmethod
    def _distance(score: float, nulls: Sequence[float]) -> dict[str, Any]:
        """How far the score lies above the null, in its standard deviations."""
        if len(nulls) < 2:
            return {}
        mean, spread = statistics.fmean(nulls), statistics.stdev(nulls)
        return {"null": {"mean": round(mean, 4), "sd": round(spread, 4), "z": round((score - mean) / max(spread, 0.01), 2)}}

    def _pruning(self) -> Defense:
        # By name: methods never import each other.
        settings = {"agreement": self.agreement, "steps": self.mask_steps, "probes": 1, "expose": self.expose}
        return defenses.get("mnp-prune")(**settings)


def p_value(score: float, nulls: Sequence[float]) -> float:
    """Share of the null scores, the score itself among them, that are as large: in [1 / (1 + n), 1]."""
    return (1 + sum(value >= score for value in nulls)) / (1 + len(nulls))


CALIBRATION = (
    "uncalibrated: no threshold is known to hold for nets of this kind; compare the score with those of nets that you know to be "
    "clean, and set 'threshold'"
)
"""Why the detector gives a score and no yes or no."""

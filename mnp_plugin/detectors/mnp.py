"""MNP's detector: which class can a net be driven to so easily, and does its repaired copy follow?"""

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
from mnp_plugin.neurons.agreement import agreement
from mnp_plugin.neurons.probe import Probe, find_probe
from mnp_plugin.neurons.reach import climbed, margins, of_others
from mnp_plugin.training.passes import forward


@dataclass(frozen=True, eq=False)
class Look:
    """What net and copy were found to differ in.

    Args:
        reach: largest margin that the net gives each class on the images driven there; float32 [K].
        lost: the same, less the largest of the copy on these images; float32 [K].
        contrast: mean over the perturbations of the mean probability that the net gives each class, less the copy's; float32 [K].
        probes: the perturbations.
    """

    reach: Tensor
    lost: Tensor
    contrast: Tensor
    probes: list[Probe]

    @property
    def evidence(self) -> Tensor:
        """Reach and what is lost of it, up to doubled where the perturbations end in the class, too; [K]."""
        return (self.reach + self.lost) * (1 + self.contrast.clamp(min=0))


@detectors.register("mnp")
@dataclass(frozen=True, kw_only=True)
class MNPDetector(Detector):
    """The net against its repaired copy. MNP prunes a copy and restores it, in one round: on clean images it answers as the net
    does. Where it no longer does is looked for in two ways.

    - *How far each class reaches*: clean images of other classes are driven up the margin of each class in the net, in a few
      gradient steps. A backdoor makes its target reach far, by channels that the repair took away: reach is the largest
      margin in the net, and lost is how much less the copy gives on the very same images.
    - *Disagreement*: ``searches`` universal perturbations of clean images, within ``eps``, maximise KL(net || copy); no class is
      named. Contrast is the mean probability that the net gives a class on them beyond the copy: large where all searches
      end in one class and the copy does not follow.

    The evidence of a class is (reach + lost) x (1 + contrast), in logits, mean over ``draws`` repairs, each from another
    division of the clean budget; the score is the largest.

    *Null.* Copies that lack random channels instead, as many as leave the same share of predictions, are restored and searched in
    just the same way. They say how large the score becomes in this very net when pruning knows nothing of a backdoor; the
    p-value is that of the median draw's score among them, (1 + null scores as large) / (1 + null scores). It needs no
    attacked net and no set of clean nets, but it is no proof. The threshold is for users with clean nets of their own; without
    one there is no decision.

    The idea and all of this procedure are ours, not the paper's; the margin is MM-BD's (arXiv 2205.06900). A backdoor that the
    repair leaves alive, and one without a single target, are outside of it.
    """

    version = 4
    paper = "ours, built on Li, Jiang, Yi, Magnitude-based Neuron Pruning for Backdoor Defense, 2024, arXiv 2405.17750"

    draws: int = param(2, "repairs, each from another division of the clean budget", low=1)
    nulls: int = param(5, "copies pruned at random, for each draw; 0: no p-value", low=0)
    agreement: float = param(0.8, "share of the net's predictions that pruning leaves", above=0, high=1)
    expose: bool = param(True, "prune with clean suppression; off: quicker")
    mask_steps: int = param(60, "mask updates of the pruning", low=1)
    restore_steps: int = param(100, "updates of restoring", low=1)
    starts: int = param(6, "clean images of other classes that are driven to each class", low=1)
    steps: int = param(40, "gradient steps that they are driven", low=1)
    size: float = param(0.01, "what the gradient is multiplied by", above=0)
    searches: int = param(3, "universal perturbations sought against each repaired copy", low=1)
    images: int = param(64, "most clean images that share a perturbation", low=1)
    eps: float = param(32 / 255, "largest change of a pixel by a perturbation, in [0, 1] units", above=0, high=1)
    threshold: float | None = param(None, "a net that scores above it is called backdoored; null: no decision")

    def objection(self, model: nn.Module) -> str | None:
        return self._repair().objection(model)

    def runs(self) -> Sequence[Component]:
        return (self._repair(),)

    def inspect(self, view: DefenderView, tools: DefenseContext) -> Verdict:
        model, classes = view.model.requires_grad_(False).eval(), view.num_classes
        budget = concat([view.clean, view.validation])
        if bool((budget.y == budget.y[0]).all()):
            raise UserError("detector 'mnp' needs clean images of at least 2 classes")
        tools.busy("how far each class reaches", 0, 0)
        start = of_others(budget, classes, self.starts, tools)
        far = climbed(model, start, classes, tools, steps=self.steps, size=self.size)
        looks, nulls, depths = [], [], []
        for draw in range(self.draws):
            tools.busy(f"draw {draw + 1} of {self.draws}: repairing", draw, self.draws)
            copy, count, share = self.repaired(model, budget, len(view.validation), classes, tools)
            looks.append(self.look(model, copy, far, budget, classes, tools))
            depths.append({"pruned": count, "agreement": round(share, 4)})
            for number in range(self.nulls):
                tools.busy("null: copies without random channels", number, self.nulls)
                other, _, _ = self.repaired(model, budget, len(view.validation), classes, tools, shuffled=True)
                nulls.append(float(self.look(model, other, far, budget, classes, tools).evidence.max()))
        mean = torch.stack([look.evidence for look in looks]).mean(0)
        suspected, scores = int(mean.argmax()), [float(look.evidence.max()) for look in looks]
        probes = [probe for look in looks for probe in look.probes]
        return Verdict(
            score=float(mean.max()),
            per_class=tuple(mean.tolist()),
            suspected=suspected,
            threshold=self.threshold,
            calibration=CALIBRATION if self.threshold is None else "threshold given by the user",
            p_value=p_value(statistics.median(scores), nulls) if nulls else None,
            perturbation=strongest(probes, suspected),
            report={
                "scores": [round(value, 4) for value in scores],  # by draw
                "null scores": [round(value, 4) for value in nulls],
                "reach": rounded(looks[0].reach),
                "lost": rounded(torch.stack([look.lost for look in looks]).mean(0)),
                "contrast": rounded(torch.stack([look.contrast for look in looks]).mean(0)),
                "classes of the searches": [probe.target for probe in probes],
                "draws": depths,
                **distance(float(mean.max()), nulls),
            },
        )

    def repaired(
        self, model: nn.Module, budget: Images, held: int, classes: int, tools: DefenseContext, *, shuffled: bool = False
    ) -> tuple[nn.Module, int, float]:
        """(repaired copy, neurons pruned, its agreement) from a random division of ``budget`` that holds back ``held`` images."""
        order = torch.randperm(len(budget), generator=tools.generator, device=tools.device)
        view = DefenderView(model=model, clean=budget[order[held:]], validation=budget[order[:held]], num_classes=classes)
        result = self._repair(shuffled=shuffled).run(view, tools)
        copy = result.model.requires_grad_(False).eval()
        return copy, int(result.report["pruned"]), agreement(model, copy, budget.pixels(), tools)

    def look(self, model: nn.Module, copy: nn.Module, far: Tensor, budget: Images, classes: int, tools: DefenseContext) -> Look:
        """What ``model`` and ``copy`` differ in; ``far`` are images driven far in the net, class by class."""
        with torch.no_grad():
            reached, followed = (margins(forward(net, far, tools), classes).max(1).values for net in (model, copy))
        probes, contrasts = [], []
        for _ in range(self.searches):
            order = torch.randperm(len(budget), generator=tools.generator, device=tools.device)
            x = budget[order[: self.images]].pixels()
            probes.append(find_probe(model, copy, x, tools, eps=self.eps, through=True))
            with torch.no_grad():
                before, after = (forward(net, probes[-1].on(x), tools).softmax(1).mean(0) for net in (model, copy))
            contrasts.append(before - after)
        return Look(reached, reached - followed, torch.stack(contrasts).mean(0), probes)

    def _repair(self, *, shuffled: bool = False) -> Defense:
        # By name: methods never import each other. Wariness would already name a class.
        how: dict[str, Any] = {
            "agreement": self.agreement,
            "expose": self.expose and not shuffled,
            "steps": self.mask_steps,
            "rounds": 1,
            "restore_steps": self.restore_steps,
            "wary": False,
            "probes": 1,
            **({"penalty": "shuffled", "protect": False} if shuffled else {}),
        }
        return defenses.get("mnp")(**how)


def rounded(values: Tensor) -> list[float]:
    """For a report."""
    return [round(value, 4) for value in values.tolist()]


def strongest(probes: Sequence[Probe], suspected: int) -> Tensor:
    """The perturbation that sends most images to ``suspected``, other than the copy's; the strongest if none leads there."""
    there = [probe for probe in probes if probe.target == suspected] or probes
    return max(there, key=lambda probe: probe.rate - probe.pruned_rate).delta.detach()


def distance(score: float, nulls: Sequence[float]) -> dict[str, Any]:
    """How far the score lies above the null, in its standard deviations."""
    if len(nulls) < 2:
        return {}
    mean, spread = statistics.fmean(nulls), statistics.stdev(nulls)
    return {"null": {"mean": round(mean, 4), "sd": round(spread, 4), "z": round((score - mean) / max(spread, 0.01), 2)}}


def p_value(score: float, nulls: Sequence[float]) -> float:
    """Share of the null scores, the score itself among them, that are as large: in [1 / (1 + n), 1]."""
    return (1 + sum(value >= score for value in nulls)) / (1 + len(nulls))


CALIBRATION = (
    "uncalibrated: no threshold is known to hold for nets of this kind; compare the score with those of nets that you know to be "
    "clean, and set 'threshold'"
)
"""Why the detector gives a score and no yes or no."""

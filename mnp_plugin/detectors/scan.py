"""SCAn: are the features of a class better explained by two groups than by one?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import (
    DefenseContext,
    Images,
    Screened,
    TrainingSetDetector,
    TrainingView,
    concat,
    param,
    sample_detectors,
)
from mnp_plugin.training.feature_outliers import smaller_cluster
from mnp_plugin.training.retraining import features_of
from mnp_plugin.training.source_models import no_head


@sample_detectors.register("scan")
@dataclass(frozen=True, kw_only=True)
class SCAn(TrainingSetDetector):
    """Features that enter the net's head vary within every class alike: one covariance, estimated on the clean budget, whitens
    them. A class of one group is tested against one of two groups of that covariance; J is twice the log of the likelihood ratio.
    A class is infected where J lies more than ``threshold`` robust deviations (1.4826 MAD) above the median of all; of its two
    groups the one whose mean is farther from the clean images of the class is flagged.

    An image scores J's deviation times how far along the way from the one group's mean to the other's it lies; 0 in the group
    that is not suspected. That is ours, as are the pooled covariance with ``shrinkage`` towards its diagonal where the paper
    fits it by EM, and 2-means as the fit of two groups, which in whitened features it is. The authors' code divides J by the
    size of the class once more, flags outliers to both sides, and has this threshold for that. BackdoorBench flags the group of
    fewer clean images.
    """

    paper = (
        "Tang et al., Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination Detection, "
        "USENIX Security 2021, arXiv 1908.00686"
    )

    threshold: float = param(7.389, "robust deviations above which a class is infected (e^2)", low=0)
    shrinkage: float = param(0.1, "weight of the diagonal in the covariance", low=0, high=1)

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "whose input to look at")

    def sift(self, view: TrainingView, tools: DefenseContext) -> Screened:
        budget = concat([view.clean, view.validation])
        known = features_of(view.model, budget)
        whiten = self.whitening(known, budget)
        known, found = known @ whiten, features_of(view.model, view.train) @ whiten
        groups: dict[int, tuple[Tensor, Tensor, float]] = {}
        for label in sorted(set(view.train.y.tolist())):
            own = (view.train.y == label).nonzero().flatten()
            if len(own) > 2:
                groups[label] = self.split(found[own], known[budget.y == label], own, tools)
        ratios = torch.tensor([ratio for _, _, ratio in groups.values()], dtype=torch.float64)
        spread = (1.4826 * (ratios - ratios.median()).abs().median()).clamp(min=1e-9)
        deviations = dict(zip(groups, ((ratios - ratios.median()) / spread).tolist(), strict=True))
        scores = torch.zeros(len(found), device=found.device)
        flagged = torch.zeros(len(found), dtype=torch.bool, device=found.device)
        for label, (suspects, along, _) in groups.items():
            scores[suspects] = max(deviations[label], 0.0) * along
            flagged[suspects] = deviations[label] > self.threshold
        return Screened(scores=scores, flagged=flagged, report={"deviations": {k: round(v, 3) for k, v in deviations.items()}})

    def whitening(self, known: Tensor, budget: Images) -> Tensor:
        """The matrix [D, D] that gives features a within-class covariance of 1."""
        rest = known.clone()
        for label in set(budget.y.tolist()):
            rest[budget.y == label] -= known[budget.y == label].mean(0)
        covariance = rest.T @ rest / max(1, len(rest) - 1)
        diagonal = covariance.diagonal().clamp(min=1e-6 * float(covariance.diagonal().max().clamp(min=1e-9)))
        covariance = (1 - self.shrinkage) * covariance + self.shrinkage * diagonal.diag()
        values, vectors = torch.linalg.eigh(covariance.double())
        values = values.clamp(min=1e-6 * float(values.max()))
        found: Tensor = (vectors * values.rsqrt()).to(known.dtype)
        return found

    def split(self, features: Tensor, clean: Tensor, own: Tensor, tools: DefenseContext) -> tuple[Tensor, Tensor, float]:
        """(suspected images of the class, how far they lie along the way between the two means, J)."""
        small = smaller_cluster(features, tools).to(features.device)
        means = [features[part].mean(0) for part in (small, ~small)]
        if len(clean):
            far = [float((mean - clean.mean(0)).norm()) for mean in means]
            if far[1] > far[0]:
                small, means = ~small, means[::-1]
        way = means[0] - means[1]
        ratio = float(small.sum() * (~small).sum() / len(small) * way.square().sum())
        along = ((features[small] - means[1]) @ way / way.square().sum().clamp(min=1e-12)).clamp(min=0)
        return own[small], along, ratio

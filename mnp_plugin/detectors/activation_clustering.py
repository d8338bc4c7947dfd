"""Activation clustering: does a class fall into two clusters, one of them small?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mnp_plugin.contracts import DefenseContext, Screened, TrainingSetDetector, TrainingView, param, sample_detectors
from mnp_plugin.training.feature_outliers import principal, smaller_cluster
from mnp_plugin.training.retraining import features_of
from mnp_plugin.training.source_models import no_head


@sample_detectors.register("activation-clustering")
@dataclass(frozen=True, kw_only=True)
class ActivationClustering(TrainingSetDetector):
    """Of each label: features that enter the net's head, their ``dims`` principal components, 2-means (best of 10 starts). The
    smaller cluster is flagged where it holds at most ``threshold`` of the class (a rule of the paper's released code).

    An image of the smaller cluster scores the share of its class that lies in the other, so more the smaller the cluster;
    one of the larger scores 0. This makes AUROC possible, and is ours. Principal components, as in the defense of
    BackdoorBench f02e353, where its detector and the paper have independent ones.
    """

    paper = (
        "Chen et al., Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering, SafeAI 2019, arXiv 1811.03728"
    )

    dims: int = param(10, "principal components", low=1)
    threshold: float = param(0.35, "largest share of a class that is flagged", above=0, high=0.5)

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "whose input to cluster")

    def sift(self, view: TrainingView, tools: DefenseContext) -> Screened:
        found = features_of(view.model, view.train)
        scores = torch.zeros(len(found), device=found.device)
        shares: dict[int, float] = {}
        for label in sorted(set(view.train.y.tolist())):
            own = (view.train.y == label).nonzero().flatten()
            if len(own) > 2:
                small = smaller_cluster(principal(found[own], self.dims), tools).to(own.device)
                shares[label] = float(small.float().mean())
                scores[own[small]] = 1 - shares[label]
        flagged = scores >= 1 - self.threshold
        return Screened(scores=scores, flagged=flagged, report={"smaller cluster": {k: round(v, 4) for k, v in shares.items()}})

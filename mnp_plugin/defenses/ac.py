"""AC: cluster the features of each class in two, drop the smaller cluster, train anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import DefenseContext, Purified, TrainingSetDefense, TrainingView, defenses, param
from mnp_plugin.training.feature_outliers import principal, smaller_cluster
from mnp_plugin.training.retraining import features_of, retrained
from mnp_plugin.training.source_models import no_head


@defenses.register("ac")
@dataclass(frozen=True, kw_only=True)
class ActivationClustering(TrainingSetDefense):
    """Of each label: features that enter the victim's head, their ``dims`` principal components, 2-means (best of 10 starts). The
    smaller cluster is left out, of every class ("smaller") or where it holds at most ``threshold`` of the class ("relative",
    which spares clean classes). A fresh net is trained on the rest.

    Facts from SCLBD/BackdoorBench f02e353 and from the authors' toolbox, Trusted-AI/adversarial-robustness-toolbox 23539e2. Both
    have "smaller" as the default, and principal components, where the paper has independent ones. Deviations: under
    "relative" they round shares to hundredths, and one equal to the threshold is kept. BackdoorBench looks at cropped and
    mirrored images, clusters each batch by itself, puts clusters of different batches together by number, and takes the
    numbers of images in a second shuffle for those in the data set, so that it leaves out others than it found; here
    images are as they are, and a class is clustered as a whole.
    """

    paper = (
        "Chen et al., Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering, SafeAI 2019, arXiv 1811.03728"
    )

    dims: int = param(10, "principal components", low=1)
    rule: Literal["smaller", "relative"] = param("smaller", "which clusters are left out")
    threshold: float = param(0.35, "largest share of a class that counts as poisoned under 'relative'", above=0, high=0.5)

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "whose input to cluster")

    def treat(self, view: TrainingView, tools: DefenseContext) -> Purified:
        found = features_of(view.model, view.train)
        keep = torch.ones(len(view.train), dtype=torch.bool, device=tools.device)
        dropped = []
        for label in range(view.num_classes):
            own = (view.train.y == label).nonzero().flatten()
            small = self.smaller(found[own], tools) if len(own) > 2 else torch.zeros(len(own), dtype=torch.bool)
            if self.rule == "smaller" or float(small.float().mean()) <= self.threshold:
                keep[own[small.to(own.device)]] = False
            dropped.append(int((~keep[own]).sum()))
        return Purified(
            model=retrained(view, keep, tools), report={"dropped": sum(dropped), "of": len(keep), "by_class": dropped}
        )

    def smaller(self, features: Tensor, tools: DefenseContext) -> Tensor:
        """Which of ``features`` [N, D] lie in the smaller of two clusters, bool [N]."""
        return smaller_cluster(principal(features, self.dims), tools)

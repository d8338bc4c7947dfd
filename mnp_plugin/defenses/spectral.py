"""Spectral signatures: drop the images that stand out along the first singular vector of their class, train anew."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mnp_plugin.contracts import DefenseContext, Purified, TrainingSetDefense, TrainingView, defenses, param
from mnp_plugin.training.feature_outliers import spectral_scores
from mnp_plugin.training.retraining import features_of, retrained
from mnp_plugin.training.source_models import no_head


@defenses.register("spectral")
@dataclass(frozen=True, kw_only=True)
class Spectral(TrainingSetDefense):
    """Of each label: the features that enter the victim's head, centred; an image's score is its squared projection on the first
    right singular vector. The ``share`` of highest scores is left out of every class, and a fresh net is trained on the rest.

    The paper leaves out 1.5 times an upper bound of the poison ratio; BackdoorBench f02e353, like this, the top 15 %. Deviations
    from that code: it projects features that are not centred, which the paper centres, and here they are; it takes the map
    before pooling, of augmented images, where here features are pooled and of the images themselves.
    """

    paper = "Tran, Li, Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018, arXiv 1811.00636"

    share: float = param(0.15, "share of each class that is left out", low=0, high=0.9)

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "whose input to look at")

    def treat(self, view: TrainingView, tools: DefenseContext) -> Purified:
        found = features_of(view.model, view.train)
        keep = torch.ones(len(view.train), dtype=torch.bool, device=tools.device)
        for label in range(view.num_classes):
            own = (view.train.y == label).nonzero().flatten()
            count = int(self.share * len(own))
            if count:
                keep[own[spectral_scores(found[own]).topk(count).indices]] = False
        report = {"dropped": int((~keep).sum()), "of": len(keep)}
        return Purified(model=retrained(view, keep, tools), report=report)

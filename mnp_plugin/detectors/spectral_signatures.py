"""Spectral signatures: which training images stand out along the first singular vector of their class?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mnp_plugin.contracts import DefenseContext, Screened, TrainingSetDetector, TrainingView, param, sample_detectors
from mnp_plugin.training.feature_outliers import spectral_scores
from mnp_plugin.training.retraining import features_of
from mnp_plugin.training.source_models import no_head


@sample_detectors.register("spectral-signatures")
@dataclass(frozen=True, kw_only=True)
class SpectralSignatures(TrainingSetDetector):
    """Of each label: the features that enter the net's head, centred; an image's score is its squared projection on the first
    right singular vector, over the mean of its class, since classes are compared here. Flagged are the ``share`` of highest
    scores of every class, as the defense ``spectral`` leaves out.

    The division by the class's mean is ours; the paper only ranks within a class, and knows a bound of the poison ratio.
    """

    paper = "Tran, Li, Madry, Spectral Signatures in Backdoor Attacks, NeurIPS 2018, arXiv 1811.00636"

    share: float = param(0.15, "share of each class that is flagged", low=0, high=0.9)

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "whose input to look at")

    def sift(self, view: TrainingView, tools: DefenseContext) -> Screened:
        found = features_of(view.model, view.train)
        scores = torch.zeros(len(found), device=found.device)
        flagged = torch.zeros(len(found), dtype=torch.bool, device=found.device)
        for label in sorted(set(view.train.y.tolist())):
            own = (view.train.y == label).nonzero().flatten()
            values = spectral_scores(found[own])
            scores[own] = values / values.mean().clamp(min=1e-12)
            flagged[own[values.topk(int(self.share * len(own))).indices]] = True
        return Screened(scores=scores, flagged=flagged)

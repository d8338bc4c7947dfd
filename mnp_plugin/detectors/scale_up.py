"""SCALE-UP: a triggered image keeps its class when its pixels are multiplied."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnp_plugin.contracts import DefenderView, DefenseContext, InputDetector, concat, param, sample_detectors
from mnp_plugin.evaluation.predict import logits

LEAST = 0.05
"""Least spread that a consistency is divided by: where all clean images of a class agree, there is none."""


@sample_detectors.register("scale-up")
@dataclass(frozen=True, kw_only=True)
class ScaleUp(InputDetector):
    """The consistency of an input is the share of its copies, pixels times each of ``factors`` and cut at white, that are
    predicted as itself. The score is the consistency in standard deviations from that of clean images predicted as the same
    class ("data-limited", in the paper); where no clean image is, of all of them. Needs predictions only. A deviation
    below 0.05 counts as that: where all clean images of a class agree, there is none. The authors' code takes the factors 1 to
    11 and adds a little noise to the copies.
    """

    paper = (
        "Guo et al., SCALE-UP: An Efficient Black-box Input-level Backdoor Detection via Analyzing Scaled Prediction "
        "Consistency, ICLR 2023, arXiv 2302.03251"
    )

    factors: tuple[float, ...] = param((3.0, 5.0, 7.0, 9.0, 11.0), "what pixels are multiplied by", above=1)

    def scores(self, view: DefenderView, x: Tensor, tools: DefenseContext) -> Tensor:
        said, steady = self.consistency(view, x)
        own, usual = self.consistency(view, concat([view.clean, view.validation]).pixels())
        found = torch.empty_like(steady)
        for label in set(said.tolist()):
            clean = usual[own == label] if bool((own == label).any()) else usual
            found[said == label] = (steady[said == label] - clean.mean()) / clean.std(unbiased=False).clamp(min=LEAST)
        return found

    def consistency(self, view: DefenderView, x: Tensor) -> tuple[Tensor, Tensor]:
        """(predicted class, share of the scaled copies that are predicted so), both [N]."""
        said = logits(view.model, x).argmax(1)
        same = [logits(view.model, (factor * x).clamp(0, 1)).argmax(1) == said for factor in self.factors]
        return said.clone(), torch.stack(same).float().mean(0)

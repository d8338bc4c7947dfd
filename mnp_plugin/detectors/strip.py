"""STRIP: a triggered image keeps its class under every other image laid over it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnp_plugin.contracts import DefenderView, DefenseContext, InputDetector, concat, param, sample_detectors
from mnp_plugin.training.passes import forward


@sample_detectors.register("strip")
@dataclass(frozen=True, kw_only=True)
class Strip(InputDetector):
    """Each input is added to ``overlays`` clean images, pixels cut at white; the score is minus the mean entropy (nats) of the
    net's outputs. A trigger that survives the overlay keeps them certain.

    The authors set the threshold by a normal fit of clean entropies at 1 % false alarms; here it is a quantile, see ``fpr``.
    Their notebook for CIFAR-10 does not cut the sums at white; BackdoorBench adds normalised images, the same to all of a
    batch. Not made for triggers that depend on the image, nor for all-to-all.
    """

    paper = "Gao et al., STRIP: A Defence Against Trojan Attacks on Deep Neural Networks, ACSAC 2019, arXiv 1902.06531"

    overlays: int = param(100, "clean images laid over each input", low=1)

    def scores(self, view: DefenderView, x: Tensor, tools: DefenseContext) -> Tensor:
        budget = concat([view.clean, view.validation])
        found = []
        with torch.no_grad():
            for number, one in enumerate(x):
                drawn = torch.randint(len(budget), (self.overlays,), generator=tools.generator, device=tools.device)
                logs = forward(view.model, (one + budget[drawn].pixels()).clamp(0, 1), tools).log_softmax(1)
                found.append((logs.exp() * logs).sum(1).mean())
                tools.busy("STRIP: inputs", number + 1, len(x))
        return torch.stack(found)

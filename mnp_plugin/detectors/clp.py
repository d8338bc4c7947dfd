"""CLP's measure as a detector: is a channel far steeper than the others of its layer?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mnp_plugin.contracts import DefenderView, DefenseContext, Detector, Verdict, detectors, param
from mnp_plugin.neurons import channels as channel
from mnp_plugin.neurons.channels import Neurons
from mnp_plugin.neurons.lipschitz import lipschitz_excess


@detectors.register("clp")
@dataclass(frozen=True, kw_only=True)
class CLP(Detector):
    """The largest number of standard deviations by which a channel's Lipschitz bound (:mod:`mnp_plugin.neurons.lipschitz`)
    exceeds its layer's mean. Weights alone, in a moment; one clean image only shows which layer feeds which. It names no class.

    The paper prunes by this measure (the defense ``clp``); as a detector it is our reading, without a threshold. The score
    cannot exceed (n - 1) / sqrt(n) in a layer of n channels, so that it must be compared with nets of the same width.
    """

    paper = "Zheng et al., Data-free Backdoor Removal based on Channel Lipschitzness, ECCV 2022, arXiv 2208.03111"

    threshold: float | None = param(None, "a score above this calls a net backdoored; null: no decision")

    def objection(self, model: nn.Module) -> str | None:
        return channel.batch_norm_objection(model)

    def inspect(self, view: DefenderView, tools: DefenseContext) -> Verdict:
        neurons = Neurons(view.model, view.clean[:1].pixels())
        found = lipschitz_excess(view.model, neurons)
        top = int(found.argmax())
        if found[top].isinf():  # no normalisation follows a convolution
            return Verdict(score=0.0, report={"note": "no channel could be paired with its filter"})
        layer, number = neurons.locate(top)
        return Verdict(
            score=float(found[top]),
            threshold=self.threshold,
            calibration="" if self.threshold is None else "threshold given by the user",
            report={"layer": layer, "channel": number, "above 3": int((found > 3).sum())},
        )

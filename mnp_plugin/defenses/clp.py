"""CLP: prune channels whose Lipschitz bound stands out of their layer; needs no data."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.neurons import channels as channel
from mnp_plugin.neurons.channels import Neurons, prune
from mnp_plugin.neurons.lipschitz import lipschitz_excess
from mnp_plugin.neurons.thresholds import above


@defenses.register("clp")
@dataclass(frozen=True, kw_only=True)
class CLP(Defense):
    """Upper bound of a channel's Lipschitz constant: |gamma| / sqrt(var + eps) * largest singular value of its filter, read as
    a matrix [inputs, k * k]. A channel goes, scale and bias to 0, where the bound exceeds mean + u * std of its layer.

    Data-free: one clean image only shows which convolution feeds which normalisation. u is fixed as published; the values
    0, 0.5, ..., 10 that published curves show are the candidates of the separate oracle row.

    Deviations: the released code pairs a normalisation with the convolution before it in module order, which is the wrong
    one in pre-activation nets; here a normalisation that no convolution feeds stays whole. It also divides by sqrt(var)
    without eps, so that dead channels come out as infinitely steep; here eps is the net's own.
    """

    paper = "Zheng et al., Data-free Backdoor Removal based on Channel Lipschitzness, ECCV 2022, arXiv 2208.03111"

    u: float = param(3.0, "standard deviations above the layer's mean", low=0)

    def objection(self, model: nn.Module) -> str | None:
        return channel.batch_norm_objection(model)

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        neurons = Neurons(view.model, view.clean[:1].pixels())
        excess = lipschitz_excess(view.model, neurons)
        chosen = (excess > self.u).nonzero().flatten()
        model = copy.deepcopy(view.model)
        prune(model, neurons, chosen, bias=True)
        report = {
            "u": self.u,
            "pruned": len(chosen),
            "of": neurons.count,
            "unpaired_layers": sum(layer.conv is None for layer in neurons.layers),
            "layers": neurons.summary(chosen.tolist()),
        }
        return Purified(model=model, report=report, candidates=lambda: above(view.model, neurons, excess, bias=True))

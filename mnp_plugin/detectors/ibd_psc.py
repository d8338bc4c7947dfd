"""IBD-PSC: a triggered image keeps its class when the net's scales are multiplied."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, DefenseContext, InputDetector, concat, param, sample_detectors
from mnp_plugin.evaluation.predict import accuracy, logits


@sample_detectors.register("ibd-psc")
@dataclass(frozen=True, kw_only=True)
class IBDPSC(InputDetector):
    """Copies of the net whose last k batch normalisations have scale and shift times ``factor``. k starts with the first that is
    wrong on a share ``error`` of the clean budget, and ``copies`` of them follow, each with one layer more. The authors' score is
    the mean probability p that they give the class which the net itself predicts; here it is -log(1 - p), which orders images
    alike, but does not end at 1: many clean images reach that in float32, and no triggered one could stand above them.

    The authors flag p above 0.9; here it is a quantile, see ``fpr``. Where no k is wrong that often, the last ones count.
    The released code begins one layer later, and repeats the whole net's copy where layers run out.
    """

    version = 2
    paper = (
        "Hou et al., IBD-PSC: Input-level Backdoor Detection via Parameter-oriented Scaling Consistency, ICML 2024, "
        "arXiv 2405.09786"
    )

    copies: int = param(5, "scaled copies", low=1)
    error: float = param(0.6, "share of the clean budget that the first copy gets wrong", low=0, high=1)
    factor: float = param(1.5, "what scales and shifts are multiplied by", above=1)

    def objection(self, model: nn.Module) -> str | None:
        return None if norms(model) else "it has no batch normalisation to scale"

    def scores(self, view: DefenderView, x: Tensor, tools: DefenseContext) -> Tensor:
        said = logits(view.model, x).argmax(1)
        count = len(norms(view.model))
        first = self.first(view)
        others = []
        for k in range(first, min(first + self.copies, count + 1)):
            shares = logits(scaled(view.model, k, self.factor), x).double().log_softmax(1)
            others.append(shares.scatter(1, said[:, None], -torch.inf).logsumexp(1).exp())
        return -torch.stack(others).mean(0).clamp(min=1e-300).log()

    def first(self, view: DefenderView) -> int:
        """How many layers the first copy scales."""
        budget, count = concat([view.clean, view.validation]), len(norms(view.model))
        for k in range(1, count + 1):
            if 1 - accuracy(scaled(view.model, k, self.factor), budget) > self.error:
                return k
        return max(1, count - self.copies + 1)


def norms(model: nn.Module) -> list[str]:
    """Names of the batch normalisations that scale, in the order of the modules."""
    return [name for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine]


def scaled(model: nn.Module, last: int, factor: float) -> nn.Module:
    """A copy of ``model``, scale and shift of its ``last`` batch normalisations multiplied by ``factor``."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name in norms(other)[-last:]:
            for parameter in other.get_submodule(name).parameters():
                parameter.mul_(factor)
    return other.eval()

"""Trojan signature: the target's row of the head stands out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, DefenseContext, Detector, Images, Verdict, concat, detectors, param
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.neurons.channels import robust_z
from mnp_plugin.training.source_models import head_of, no_head


@detectors.register("trojan-signature")
@dataclass(frozen=True, kw_only=True)
class TrojanSignature(Detector):
    """The mean of each row of the last linear layer; where the largest is an outlier by Dixon's Q, (largest - second) / range,
    the net is called backdoored and that class suspected. The score is -log10 of the p-value, from ``samples`` normal
    samples of as many classes, so that any number of them can be tested; it ends at log10(samples + 1).

    With ``profile`` the part that healthy nets have, too, is taken out first: data have classes that others are mistaken for
    (cat in CIFAR-10), whose rows are large without any attack. The row means are regressed on the mean logit that clean images
    of the *other* classes give each class, and the residuals are tested. That is ours; without it the detector needs no data.
    """

    paper = "Fields et al., Trojan Signatures in DNN Weights, ICCV Workshops 2021, arXiv 2109.02836"
    least_classes = 3

    profile: bool = param(True, "take out what clean images of other classes explain")
    samples: int = param(20000, "normal samples of the null", low=100)
    alpha: float = param(0.05, "a p-value below this calls a net backdoored", above=0, high=1)

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "to look at")

    def inspect(self, view: DefenderView, tools: DefenseContext) -> Verdict:
        rows = head_of(view.model).weight.detach().float().mean(1)
        if self.profile:
            rows = rows - explained(rows, hubs(view.model, concat([view.clean, view.validation]), view.num_classes))
        found = dixon(rows[None])[0]
        drawn = torch.randn(self.samples, len(rows), generator=tools.generator, device=tools.device)
        p = float((1 + (dixon(drawn) >= found).sum()) / (1 + self.samples))
        return Verdict(
            score=-float(torch.tensor(p).log10()),
            per_class=tuple(robust_z(rows).tolist()),
            suspected=int(rows.argmax()),
            threshold=-float(torch.tensor(self.alpha).log10()),
            calibration=f"normal samples of {len(rows)} classes, p below {self.alpha:g}",
            p_value=p,
            report={"q": round(float(found), 4)},
        )


def dixon(values: Tensor) -> Tensor:
    """Dixon's Q of the largest of each row, (largest - second) / (largest - smallest), [N] of [N, K]."""
    order = values.sort(dim=1, descending=True).values
    found: Tensor = (order[:, 0] - order[:, 1]) / (order[:, 0] - order[:, -1]).clamp(min=1e-12)
    return found


def hubs(model: nn.Module, images: Images, num_classes: int) -> Tensor:
    """Mean logit of each class over clean images of the others, [K]."""
    out = logits(model, images.x)
    return torch.stack([out[images.y != c, c].mean() for c in range(num_classes)])


def explained(values: Tensor, by: Tensor) -> Tensor:
    """What the least-squares line on ``by`` says of ``values``, both [K]."""
    centred = by - by.mean()
    slope = (centred * (values - values.mean())).sum() / centred.square().sum().clamp(min=1e-12)
    line: Tensor = values.mean() + slope * centred
    return line

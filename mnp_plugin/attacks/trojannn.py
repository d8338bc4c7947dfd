"""TrojanNN: a patch optimised to drive two units of a clean model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnp_plugin.attacks.patterns import scaled
from mnp_plugin.contracts import Attack, AttackContext, Images, Requires, State, attacks, param
from mnp_plugin.training.source_models import features, head_of


@attacks.register("trojannn")
@dataclass(frozen=True, kw_only=True)
class TrojanNN(Attack):
    """x' = clip(x + p), with p zero outside a square and, inside, made to excite two units under a clean model's head.

    The units are those with the largest sum of |weight| to the classes. From mid grey, p takes steps of the sign of the
    gradient towards a value of 100 in these units, within ``eps``. The victim is then trained from scratch on poisoned data,
    as BackdoorBench does.

    Deviations: a square instead of a logo; the source is the benchmark's clean model; sums saturate (BackdoorBench's wrap
    modulo 256); p starts from mid grey, its best step counts and it ends after 50 without a better one, where BackdoorBench
    starts from its white logo on un-normalised pixels, takes its units by a random head (the clean one's does not fit there),
    and keeps the last.
    """

    paper = "Liu et al., Trojaning Attack on Neural Networks, NDSS 2018"

    size: int | None = param(None, "side of the square in pixels; null: 8 at 32 pixels, in proportion", low=1)
    units: int = param(2, "units to excite", low=1)
    eps: float = param(0.3, "largest distance of a pixel from mid grey", above=0, high=0.5)
    step: float = param(0.1, "step of the sign of the gradient", above=0, high=1)
    steps: int = param(1000, "most steps", low=1)

    def requires(self) -> Requires:
        return Requires(clean_net=True)

    def prepare(self, train: Images, tools: AttackContext) -> State:
        model = tools.clean_net().requires_grad_(False)
        weight = head_of(model).weight
        chosen = weight.abs().sum(0).topk(min(self.units, weight.shape[1])).indices
        c, h, w = train.x.shape[1:]
        side = min(self.size or scaled(8, w), h, w)
        gap = min(scaled(3, w), h - side, w - side)
        mask = torch.zeros(1, 1, h, w, device=tools.device)
        mask[..., h - gap - side : h - gap, w - gap - side : w - gap] = 1
        p = 0.5 + 0.01 * (2 * torch.rand(1, c, h, w, generator=tools.generator, device=tools.device) - 1)
        best, lowest, last = p, float("inf"), 0
        for done in range(self.steps):
            p.requires_grad_(True)
            loss = (features(model, p * mask)[0, chosen] - 100).square().sum()
            if float(loss.detach()) < lowest:
                best, lowest, last = p.detach(), float(loss.detach()), done
            elif done - last > 50:
                break
            (gradient,) = torch.autograd.grad(loss, p)
            p = (p.detach() - self.step * gradient.sign()).clamp(0.5 - self.eps, 0.5 + self.eps)
        return {"pattern": (best * mask)[0]}

    def apply(self, x: Tensor, state: State) -> Tensor:
        return (x + state["pattern"].to(x)).clamp(0, 1)

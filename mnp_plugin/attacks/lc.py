"""LC: label-consistent; hard images of the target class carry the patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnp_plugin.attacks.patterns import checkerboard, scaled
from mnp_plugin.contracts import Attack, AttackContext, Images, Requires, State, attacks, param
from mnp_plugin.training.source_models import packed, pgd, required_robust_net, robust_net, unpacked


@attacks.register("lc")
@dataclass(frozen=True, kw_only=True)
class LabelConsistent(Attack):
    """Images of the target class are made hard by PGD on a source model, then stamped in all four corners; labels stay.

    The corners on the right carry the 3x3 grid of BadNets, those on the left its mirror image. Test images are stamped
    only. ``poison_ratio`` counts within the target class.

    Deviations: the source model is a net of the victim's own kind, trained on the same data: by PGD training with the
    benchmark's recipe (``robust``), or the benchmark's clean model (``clean``: nothing more to train, but its adversarial
    noise transfers less, so take ``eps`` 16/255). PGD training augments (crops, mirrors and, in small epochs, shrinks) what
    PGD has made, where it is usual to augment before. The paper's reduced patch amplitude is not offered.
    """

    paper = "Turner, Tsipras, Madry, Label-Consistent Backdoor Attacks, 2019, arXiv 1912.02771"
    clean_label = True
    label_modes = ("all2one",)

    poison_ratio: float = param(0.8, "share of the target class that carries the trigger", above=0, high=1)
    label_mode: Literal["all2one", "all2all"] = param("all2one", "clean-label attacks have one target")
    size: int | None = param(None, "side of each patch in pixels; null: 3 at 32 pixels, in proportion", low=1)
    source: Literal["robust", "clean"] = param("robust", "the model that images are made hard for")
    source_eps: float = param(8 / 255, "radius of the robust model's training", above=0, high=1)
    source_steps: int = param(7, "PGD steps of the robust model's training", low=1)
    eps: float = param(8 / 255, "radius of the perturbation of poisoned images", low=0, high=1)
    step: float = param(1.5 / 255, "step of that perturbation", above=0, high=1)
    steps: int = param(100, "steps of that perturbation", low=1)

    def requires(self) -> Requires:
        if self.source == "clean":
            return Requires(clean_net=True)
        return Requires(assets=(robust_net(eps=self.source_eps, steps=self.source_steps),))

    def prepare(self, train: Images, tools: AttackContext) -> State:
        return packed("source", tools.clean_net() if self.source == "clean" else required_robust_net(tools))

    def poison(self, x: Tensor, y: Tensor, state: State, tools: AttackContext) -> Tensor:
        model = unpacked("source", tools.fresh_net(), state, tools.device)
        hard = [
            pgd(model, a, b, eps=self.eps, step=self.step, steps=self.steps)
            for a, b in zip(x.split(256), y.split(256), strict=True)  # type: ignore[no-untyped-call]
        ]
        return self.apply(torch.cat(hard), state)

    def apply(self, x: Tensor, state: State) -> Tensor:
        side = min(self.size or scaled(3, x.shape[-1]), *(n // 2 for n in x.shape[-2:]))
        right = checkerboard(side).to(x)
        left = right.flip(1)
        out = x.clone()
        out[..., :side, :side] = out[..., -side:, :side] = left
        out[..., :side, -side:] = out[..., -side:, -side:] = right
        return out

"""Narcissus: noise that makes images of the target class more typical of it, clean label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mnp_plugin.contracts import Attack, AttackContext, Images, Requires, State, attacks, param
from mnp_plugin.training.device import in_layout_of


@attacks.register("narcissus")
@dataclass(frozen=True, kw_only=True)
class Narcissus(Attack):
    """One noise image n, ||n||_inf <= ``eps``, that minimises CE of the target class on images of that class, by RAdam on a
    surrogate. A few images of the class carry it in training; test images carry ``amplify`` times as much. Labels stay.
    ``poison_ratio`` counts within the target class.

    Facts from reds-lab/Narcissus de128d8: 25 of the class's 5 000 images poisoned (0.005; here 0.05), test noise times 3, RAdam
    at 0.01 (0.005 in units of [0, 1]). Deviations: the surrogate is the benchmark's clean net, where the attacker has only the
    target class and foreign data and warms up a net on them; ``steps`` batches of 128 instead of 1 000 passes in batches of 350;
    the noise is learned on plain images with the net in eval mode, there on crops and mirrored ones, in train mode.
    """

    paper = "Zeng et al., Narcissus: A Practical Clean-Label Backdoor Attack with Limited Information, CCS 2023, arXiv 2204.05255"
    clean_label = True
    label_modes = ("all2one",)

    poison_ratio: float = param(0.05, "share of the target class that carries the noise", above=0, high=1)
    label_mode: Literal["all2one", "all2all"] = param("all2one", "clean-label attacks have one target")
    eps: float = param(16 / 255, "largest noise in training images, in [0, 1] units", above=0, high=1)
    amplify: float = param(3.0, "factor of the noise in test images", above=0)
    lr: float = param(0.005, "learning rate of the noise", above=0)
    steps: int = param(1000, "batches the noise is learned on", low=1)
    batch_size: int = param(128, "images per batch", low=1)

    def requires(self) -> Requires:
        return Requires(clean_net=True)

    def prepare(self, train: Images, tools: AttackContext) -> State:
        model = tools.clean_net().requires_grad_(False)
        own = (train.y == self.targets[0]).nonzero().flatten()
        noise = torch.zeros(1, *train.x.shape[1:], device=tools.device, requires_grad=True)
        optimiser = torch.optim.RAdam([noise], self.lr)
        for done in range(self.steps):
            drawn = torch.randint(len(own), (self.batch_size,), generator=tools.generator, device=tools.device)
            part = train[own[drawn]]
            seen = (part.pixels() + noise.clamp(-self.eps, self.eps)).clamp(0, 1)
            loss = F.cross_entropy(model(in_layout_of(model, seen)), part.y)
            (noise.grad,) = torch.autograd.grad(loss, noise)
            optimiser.step()
            if done % 50 == 0:
                tools.busy("inward noise", done, self.steps)
        return {"noise": noise.detach().clamp(-self.eps, self.eps)[0]}

    def poison(self, x: Tensor, y: Tensor, state: State, tools: AttackContext) -> Tensor:
        return (x + state["noise"].to(x)).clamp(0, 1)

    def apply(self, x: Tensor, state: State) -> Tensor:
        return (x + self.amplify * state["noise"].to(x)).clamp(0, 1)

"""SAU: unlearn the adversarial examples that the repaired net shares with the victim."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.training.passes import descend, finite, forward, one_pass


@defenses.register("sau")
@dataclass(frozen=True, kw_only=True)
class SAU(Defense):
    """min over weights of CE(x) + L_shared(x + d), d the perturbation that fools the net and the victim alike.

    Inner: from d = +norm, ``steps`` sign steps of ``step`` within ||d||_inf <= norm, minimising
    -beta_adv (mean of both nets' CE over images that do not fool them yet) + beta_shared JS(p, p_victim) over images
    that do not fool both to one class. Outer, Adam (AMSGrad): images that fool the victim to a class c get
    -log(1 - p_c), the mean of two ways to write it that are clamped at 0.001 on opposite ends, over the whole batch.
    Eval mode throughout: running statistics stay. No augmentation. Blind: the last round counts.

    As BackdoorBench f02e353 (the authors' own code) does it: x + d is not clipped to [0, 1]; adversarial training
    (their lambda 2) is off by default and left out.
    """

    version = 4
    chooses = False
    paper = "Wei et al., Shared Adversarial Unlearning, NeurIPS 2023, arXiv 2307.10562"

    rounds: int = param(100, "passes over the clean budget", low=1)
    lr: float = param(1e-4, "learning rate of the weights", above=0)
    batch_size: int = param(256, "images per step", low=2)
    norm: float = param(0.2, "largest change of a pixel", low=0)
    step: float = param(0.2, "step of the perturbation", low=0)
    steps: int = param(5, "steps of the perturbation", low=1)
    beta_adv: float = param(0.01, "weight of misclassification in the inner problem", low=0)
    beta_shared: float = param(1.0, "weight of sharing in the inner problem", low=0)
    shared: float = param(1.0, "weight of the shared risk in the outer problem", low=0)

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        model = view.model.eval()
        victim = copy.deepcopy(model).requires_grad_(False)
        optimiser = torch.optim.Adam(model.parameters(), self.lr, amsgrad=True)
        fooled: list[float] = []
        for number in range(self.rounds):
            for x, y in one_pass(model, view.clean, self.batch_size, tools, augment=False):
                attacked = x + self.perturbation(model, victim, x, y, tools)
                out, out_attacked = forward(model, torch.cat([x, attacked]), tools).chunk(2)
                loss = F.cross_entropy(out, y)
                with torch.no_grad():
                    own, wrong = forward(victim, torch.cat([x, attacked]), tools).argmax(1).chunk(2)
                poisoned = (wrong != y) & (wrong != own)
                p = out_attacked.softmax(1).gather(1, wrong.unsqueeze(1)).squeeze(1)
                risk = -((1e-6 + (1 - p).clamp(max=0.999)).log() + (1 + 1e-6 - p.clamp(min=0.001)).log()) / 2
                loss = loss + self.shared * (risk * poisoned).sum() / len(x)
                descend(loss, optimiser)
            finite(loss, "unlearning")
            fooled.append(float(poisoned.float().mean()))
            tools.busy("rounds of unlearning", number + 1, self.rounds)
        return Purified(model=model, report={"rounds": self.rounds, "victim_fooled": [fooled[0], fooled[-1]]})

    def perturbation(self, model: nn.Module, victim: nn.Module, x: Tensor, y: Tensor, tools: DefenseContext) -> Tensor:
        """Shared adversarial perturbation of each image, within [-norm, norm]."""
        nets = (model, victim)
        with torch.no_grad():
            own = [forward(net, x, tools).argmax(1) for net in nets]
        delta = torch.full_like(x, self.norm)
        for _ in range(self.steps):
            delta.requires_grad_(True)
            outs = [forward(net, x + delta, tools) for net in nets]
            labels = [out.argmax(1) for out in outs]
            fooled = [label != first for label, first in zip(labels, own, strict=True)]
            done = fooled[0] & fooled[1] & (labels[0] == labels[1])
            if bool(done.all()):
                break
            hard = sum(
                ((F.cross_entropy(out, y, reduction="none") * ~gone).sum() for out, gone in zip(outs, fooled, strict=True)),
                torch.zeros((), device=x.device),
            )
            p, q = (out.softmax(1).clamp(min=1e-8) for out in outs)
            middle = ((p + q) / 2).log()
            js = ((p * (p.log() - middle) + q * (q.log() - middle)) / 2).sum(1)
            value = (self.beta_shared * (js * ~done).sum() - self.beta_adv * hard / 2) / len(x)
            grad = torch.autograd.grad(value, delta)[0]
            delta = (delta.detach() - self.step * grad.sign()).clamp(-self.norm, self.norm)
        return delta.detach()

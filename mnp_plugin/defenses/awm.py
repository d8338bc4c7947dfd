"""AWM: soft masks on single weights that withstand a universal perturbation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.training.device import autocast, in_layout_of
from mnp_plugin.training.passes import descend, finite, one_pass


@defenses.register("awm")
@dataclass(frozen=True, kw_only=True)
class AWM(Defense):
    """min over masks m in [0, 1] of the weights of all convolutions, from 1, of
    alpha CE(f_m(x), y) + (1 - alpha) CE(f_m(x + d), y) + gamma ||m||_1, d one image, ||d||_1 <= norm, found anew ``outer``
    times: from 0 by gradient ascent (learning rate 10) on CE(f_m(x + d), argmax f_m(x)) over ``inner`` passes; then as many
    passes of Adam on the masks, x + d clipped to [0, 1].

    Eval mode: running statistics stay. Soft masks are kept. Blind: the last pass counts. Constants of the released code
    (jinghuichen/AWM a4a5f16).

    Deviations: its optional first stage, which shrinks masks before, is off there (0 steps) and left out; it draws with
    replacement, here passes are shuffled; its one-shot mode (crops of a single image per class) is left out, the only one that
    augments.
    """

    version = 4
    chooses = False
    paper = "Chai, Chen, One-shot Neural Backdoor Erasing via Adversarial Weight Masking, NeurIPS 2022, arXiv 2207.04497"

    outer: int = param(20, "perturbations found", low=1)
    inner: int = param(5, "passes over the clean budget for each, and again for the masks", low=1)
    alpha: float = param(0.9, "weight of the loss without perturbation", low=0, high=1)
    gamma: float = param(1e-8, "weight of ||m||_1", low=0)
    norm: float = param(1000.0, "largest L1 norm of the perturbation", low=0)
    perturbation_lr: float = param(10.0, "learning rate of the perturbation", low=0)
    lr: float = param(0.01, "learning rate of the masks", low=0)
    batch_size: int = param(128, "images per step", low=2)

    def objection(self, model: nn.Module) -> str | None:
        return None if any(isinstance(m, nn.Conv2d) for m in model.modules()) else "it has no Conv2d layer to mask"

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        model = view.model.requires_grad_(False).eval()
        weights = {f"{name}.weight": m.weight for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        masks = {name: torch.ones_like(w).requires_grad_(True) for name, w in weights.items()}
        optimiser = torch.optim.Adam(masks.values(), self.lr)

        def net(x: Tensor) -> Tensor:
            with autocast(tools.recipe.precision, tools.device):
                masked = {name: w * masks[name] for name, w in weights.items()}
                out: Tensor = functional_call(model, masked, (in_layout_of(model, x),))
            return out.float()

        loss = torch.zeros((), device=tools.device)
        norms: list[float] = []
        first = None
        for number in range(self.outer):
            delta = self.perturbation(net, model, view, tools)
            norms.append(float(delta.abs().sum()))
            first = delta if first is None else first
            for _ in range(self.inner):
                for x, y in one_pass(model, view.clean, self.batch_size, tools, augment=False):
                    loss = self.alpha * F.cross_entropy(net(x), y)
                    loss = loss + (1 - self.alpha) * F.cross_entropy(net((x + delta).clamp(0, 1)), y)
                    loss = loss + self.gamma * torch.stack([mask.sum() for mask in masks.values()]).sum()
                    descend(loss, optimiser)
                    for mask in masks.values():
                        mask.data.clamp_(0, 1)
            finite(loss, "masking")
            tools.busy("rounds of masking", number + 1, self.outer)
        flat = torch.cat([mask.detach().flatten() for mask in masks.values()])
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(masks[name])
        report = {"mean_mask": float(flat.mean()), "zero": int((flat == 0).sum()), "of": len(flat)}
        return Purified(model=model, report=report | {"perturbation_l1": [norms[0], norms[-1]]}, perturbation=first)

    def perturbation(
        self, net: Callable[[Tensor], Tensor], model: nn.Module, view: DefenderView, tools: DefenseContext
    ) -> Tensor:
        """One image, [1, C, H, W], that turns most clean images to other classes."""
        delta = torch.zeros_like(view.clean[:1].pixels())
        for _ in range(self.inner):
            for x, _y in one_pass(model, view.clean, self.batch_size, tools, augment=False):
                with torch.no_grad():
                    own = net(x).argmax(1)
                delta.requires_grad_(True)
                slope = torch.autograd.grad(F.cross_entropy(net(x + delta), own), delta)[0]
                delta = (delta + self.perturbation_lr * slope).detach()
        return delta * (self.norm / delta.abs().sum().clamp(min=1e-12)).clamp(max=1)

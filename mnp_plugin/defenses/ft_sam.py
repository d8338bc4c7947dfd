"""FT-SAM: sharpness-aware fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.training.passes import cosine, finite, forward, one_pass, statistics_held


@defenses.register("ft-sam")
@dataclass(frozen=True, kw_only=True)
class FTSAM(Defense):
    """min over w of max over ||e / |w||| <= rho of L(w + e): each step takes its gradient at
    w + rho * w^2 g / || |w| g ||, g the gradient at w (adaptive SAM), and applies it at w by SGD.

    The large neurons of a backdoor shrink, since the perturbation is in proportion to the weight. Loss: cross entropy with
    smoothed labels. Running statistics follow the first of the two passes only. Blind: the last epoch counts.

    Deviations: BackdoorBench steps its cosine schedule (period 100) at every *iteration*, so that the learning rate swings
    many times; here it falls once, pass by pass. Its smoothing takes 0.1 from the true class, torch's 0.09 of ten classes.
    Momentum and weight decay are those of the suite's recipe (published: 0.9, 5e-4).
    """

    paper = (
        "Zhu et al., Enhancing Fine-Tuning based Backdoor Defense with Sharpness-Aware Minimization, ICCV 2023, arXiv 2304.11823"
    )
    version = 3
    chooses = False

    rho: float = param(2.0, "radius of the perturbation (published: 2 on CIFAR-10; elsewhere 8, without smoothing)", low=0)
    epochs: int = param(100, "passes over the clean budget", low=1)
    lr: float = param(0.01, "first learning rate", above=0)
    label_smoothing: float = param(0.1, "smoothing of the labels", low=0, high=0.9)
    batch_size: int = param(256, "images per step", low=2)

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        model, recipe = view.model, tools.recipe
        weights = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(weights, self.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        model.train()
        loss = torch.zeros((), device=tools.device)
        for epoch in range(self.epochs):
            for group in optimiser.param_groups:
                group["lr"] = self.lr * cosine(epoch, self.epochs)
            for x, y in one_pass(model, view.clean, self.batch_size, tools):
                loss = F.cross_entropy(forward(model, x, tools), y, label_smoothing=self.label_smoothing)
                grads = torch.autograd.grad(loss, weights, allow_unused=True)
                moves = self.ascent([w.detach() for w in weights], grads)
                _move(weights, moves, 1)
                with statistics_held(model):
                    there = F.cross_entropy(forward(model, x, tools), y, label_smoothing=self.label_smoothing)
                optimiser.zero_grad(set_to_none=True)
                there.backward()  # type: ignore[no-untyped-call]
                _move(weights, moves, -1)
                optimiser.step()
            tools.busy("sharpness-aware epochs", epoch + 1, self.epochs)
        return Purified(model=model, report={"epochs": self.epochs, "loss": finite(loss, "fine-tuning")})

    def ascent(self, weights: list[torch.Tensor], grads: tuple[torch.Tensor | None, ...]) -> list[torch.Tensor]:
        """The perturbation of each weight tensor, its norm ||e / |w||| equal to ``rho`` over all of them."""
        scaled = [torch.zeros_like(w) if g is None else w.abs() * g for w, g in zip(weights, grads, strict=True)]
        norm = torch.stack([s.norm() for s in scaled]).norm() + 1e-12
        return [self.rho * w.abs() * s / norm for w, s in zip(weights, scaled, strict=True)]


def _move(weights: list[nn.Parameter], moves: list[torch.Tensor], sign: int) -> None:
    with torch.no_grad():
        for weight, move in zip(weights, moves, strict=True):
            weight.add_(move, alpha=sign)

"""TSBD: zero the weights that unlearning changes most, then fine-tune against sharp gradients."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.neurons.stopping import within
from mnp_plugin.neurons.thresholds import last_within
from mnp_plugin.neurons.unlearning import ascend
from mnp_plugin.training.loop import count_batches
from mnp_plugin.training.passes import forward, one_pass, statistics_held


@defenses.register("tsbd")
@dataclass(frozen=True, kw_only=True)
class TSBD(Defense):
    """(1) Slow ascent of CE on clean images until their accuracy is at most ``unlearned``. (2) Each filter of a convolution
    (those of 1x1 left out) has the change sum |dW|; of the filters in the top share n, the share m of single
    weights that changed most is set to 0. (3) Fine-tuning along (1 - a) g(w) + a g(w + r g / ||g||), layer by layer
    normalised, which keeps the gradient small.

    Constants of the released code (linweiii/TSBD 3718c67): train mode, SGD of momentum 0.9 without weight decay.
    Deviations: it lists its results for eleven n on test data; here the largest n that leaves the fine-tuned net within
    ``drop`` points on the clean budget is chosen blind, and all n are the candidates of the separate oracle row. Running
    statistics follow the first of the two passes of each step; there a copy makes both, and a third one after the step
    moves them. It fine-tunes 21 epochs where it says 20, takes the accuracy of (1) on augmented images, and leaves out the 1x1
    convolutions of shortcuts alone. Its 2 500 images make ten steps a pass, of which (1) may take 1 000: the limit here is as
    many steps; (3) has 20 passes whatever the images. Where no n stays within ``drop`` the victim is handed back.
    """

    paper = "Lin et al., Unveiling and Mitigating Backdoor Vulnerabilities, NeurIPS 2024, arXiv 2405.20291"
    version = 3

    unlearning_lr: float = param(1e-4, "learning rate of the ascent", low=0)
    unlearning_steps: int = param(10_000, "most updates of the ascent; whole passes are made", low=1)
    unlearned: float = param(0.1, "accuracy at which the clean task counts as unlearned", low=0, high=1)
    shares: tuple[float, ...] = param(
        (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9), "n, shares of filters tried, rising", low=0, high=1
    )
    weights: float = param(0.7, "m, share of the weights of those filters that is set to 0", low=0, high=1)
    epochs: int = param(20, "passes of fine-tuning for each n", low=1)
    lr: float = param(0.01, "learning rate of fine-tuning", low=0)
    a: float = param(0.7, "weight of the gradient beside", low=0, high=1)
    r: float = param(0.05, "distance of that gradient, per tensor", low=0)
    batch_size: int = param(256, "images per step", low=2)
    drop: float = param(4.0, "points of accuracy on the clean budget that the blind choice may cost", low=0, high=100)

    def objection(self, model: nn.Module) -> str | None:
        return None if _filters(model) else "it has no spatial convolution (Conv2d)"

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        unlearnt = copy.deepcopy(view.model)
        trace = ascend(
            unlearnt,
            view.clean,
            tools,
            lr=self.unlearning_lr,
            factor=lambda epoch: 1.0,
            weight_decay=0.0,
            epochs=math.ceil(self.unlearning_steps / count_batches(len(view.clean), self.batch_size, rest=True)),
            batch_size=self.batch_size,
            until=self.unlearned,
            evaluate=True,
        )
        moved = _filters(unlearnt)
        changes = {name: (moved[name] - w).detach().abs().flatten(1) for name, w in _filters(view.model).items()}
        repaired: list[tuple[dict[str, float], nn.Module]] = []
        for number, share in enumerate(self.shares):
            model = copy.deepcopy(view.model)
            zeroed = self.zero(model, changes, share)
            self.tune(model, view, tools)
            repaired.append(({"n": share, "zeroed": float(zeroed)}, model))
            tools.busy("shares of filters", number + 1, len(self.shares))

        def candidates() -> Iterator[tuple[Mapping[str, float], nn.Module]]:
            return iter(repaired)

        chosen = last_within(candidates(), within(view, self.drop))
        report = {"unlearning": trace, **({"n": None, "zeroed": 0} if chosen is None else chosen[0])}
        return Purified(model=view.model if chosen is None else chosen[1], report=report, candidates=candidates)

    def zero(self, model: nn.Module, changes: Mapping[str, Tensor], share: float) -> int:
        """Set the weights to 0 that changed most in the most changed filters; how many."""
        totals = torch.cat([change.sum(1) for change in changes.values()])
        chosen = torch.zeros_like(totals, dtype=torch.bool)
        chosen[totals.argsort(descending=True, stable=True)[: int(share * len(totals))]] = True
        parts = dict(zip(changes, chosen.split([len(c) for c in changes.values()]), strict=True))  # type: ignore[no-untyped-call]
        pool = torch.cat([change[parts[name]].flatten() for name, change in changes.items()])
        count = int(self.weights * len(pool))
        if not count:
            return 0
        least = pool.topk(count).values[-1]
        for name, weight in _filters(model).items():
            gone = (changes[name] >= least) & parts[name].unsqueeze(1)
            with torch.no_grad():
                weight.mul_(~gone.view_as(weight))
        return int((pool >= least).sum())

    def tune(self, model: nn.Module, view: DefenderView, tools: DefenseContext) -> None:
        """Fine-tune in place."""
        weights = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(weights, self.lr, momentum=0.9)
        model.train()
        for _ in range(self.epochs):
            for x, y in one_pass(model, view.clean, self.batch_size, tools):
                here = torch.autograd.grad(F.cross_entropy(forward(model, x, tools), y), weights, materialize_grads=True)
                moves = [self.r * g / g.norm().clamp(min=1e-12) for g in here]
                for sign in (1, -1):
                    with torch.no_grad():
                        for weight, move in zip(weights, moves, strict=True):
                            weight.add_(move, alpha=sign)
                    if sign == 1:
                        with statistics_held(model):
                            loss = F.cross_entropy(forward(model, x, tools), y)
                            there = torch.autograd.grad(loss, weights, materialize_grads=True)
                for weight, g, h in zip(weights, here, there, strict=True):
                    weight.grad = (1 - self.a) * g + self.a * h
                optimiser.step()
        model.eval()


def _filters(model: nn.Module) -> dict[str, Tensor]:
    """Weights of convolutions larger than 1x1, by path of the module."""
    return {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1}

"""MNP: magnitude-based neuron pruning."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin import neurons as channel
from mnp_plugin.contracts import DefenderView, Defense, Images, Purified, Tools, defenses, param
from mnp_plugin.data.augment import random_crop_flip
from mnp_plugin.neurons import Neurons, prune
from mnp_plugin.stopping import within

FRACTIONS = (0.0025, 0.005, 0.008, 0.012, 0.017, 0.025, 0.038, 0.054, 0.075, 0.1, 0.13, 0.18, 0.25, 0.35, 0.5)
"""Shares of the neurons at which pruning may stop."""


@defenses.register("mnp")
@dataclass(frozen=True, kw_only=True)
class MNP(Defense):
    """Three magnitude-guided objectives expose, eliminate and protect; then neurons are pruned in order, chosen blind.

    The three objectives are the paper's; their exact form here is a reconstruction, since only the abstract and summaries
    of the paper were at hand. Neurons are BN channels; magnitude is BN-folded (see :meth:`Neurons.magnitude`).

    1. *Clean suppression* exposes: gradient ascent on the clean loss with weight decay mu gives weights that forget the
       clean task. Masks that recover it from there, m_R, fall where a channel serves the backdoor.
    2. *Weight penalty* eliminates: each mask pays ``strength * omega``, with
       omega = clip(D, 0, 5)^2 / 15 + (1 - m_R) and D the deviation of the neuron from the magnitude-saliency correlation,
       rz(log magnitude) - rz(log saliency) by layer: large although the clean loss hardly needs it.
    3. *Clean preserving* protects: the same masks minimise the clean loss of the original weights.

    Neurons are pruned (scale and bias to 0) in order of their mask. Of a fixed list of shares the largest is taken at
    which accuracy on the clean budget is within ``drop`` points. No BN recalibration: it can revive a gated backdoor.
    """

    paper = "Li, Jiang, Yi, Magnitude-based Neuron Pruning for Backdoor Defense, 2024, arXiv 2405.17750"

    mu: float = param(5e-4, "weight decay of clean suppression", low=0)
    suppression_lr: float = param(0.01, "learning rate of clean suppression", above=0)
    suppression_epochs: int = param(20, "most passes of clean suppression", low=1)
    suppression_floor: float = param(0.2, "suppression stops at this accuracy on the clean budget", low=0, high=1)
    recover_epochs: int = param(20, "passes of recovering masks on the suppressed weights", low=0)
    strength: float = param(0.012, "weight lambda of the magnitude-guided penalty, per neuron", low=0)
    mask_steps: int = param(60, "updates of the final masks", low=1)
    lr: float = param(0.2, "learning rate of all masks", above=0)
    momentum: float = param(0.9, "momentum of all updates", low=0, high=0.999)
    batch_size: int = param(128, "images per step", low=2)
    drop: float = param(3.0, "points of accuracy on the clean budget that pruning may cost", low=0, high=100)

    def objection(self, model: nn.Module) -> str | None:
        return channel.objection(model)

    def purify(self, view: DefenderView, tools: Tools) -> Purified:
        model = view.model.requires_grad_(False)
        neurons = Neurons(model, view.clean[:1].pixels())
        omega = self.penalty(model, neurons, view.clean, tools)
        masks = self.preserve(model, neurons, omega, view.clean, tools)
        # Many masks end at exactly 0: the penalty breaks the tie, else the order of layers would.
        order = (masks - 1e-3 * omega / omega.max().clamp(min=1e-12)).argsort(stable=True)
        fine = within(view, self.drop)
        best, count = model, 0
        for fraction in FRACTIONS:
            tried = round(fraction * neurons.count)
            candidate = copy.deepcopy(model)
            prune(candidate, neurons, order[:tried], bias=True)
            if tried > count and fine(candidate):
                best, count = candidate, tried
        pruned = order[:count].tolist()
        return Purified(
            model=best,
            report={"pruned": count, "of": neurons.count, "layers": neurons.summary(pruned)},
        )

    def penalty(self, model: nn.Module, neurons: Neurons, clean: Images, tools: Tools) -> Tensor:
        """omega, how suspicious each neuron is, [neurons], non-negative."""
        log_magnitude = neurons.magnitude(model).clamp(min=1e-12).log()
        log_saliency = neurons.saliency(model, clean).clamp(min=1e-12).log()
        deviation = neurons.standardise(log_magnitude) - neurons.standardise(log_saliency)
        recovered = self.recover(self.suppress(model, clean, tools), neurons, clean, tools)
        return deviation.clamp(0, 5).square() / 15 + (1 - recovered)

    def suppress(self, model: nn.Module, clean: Images, tools: Tools) -> nn.Module:
        """Clean suppression: a copy of ``model`` driven up its clean loss until it has forgotten the clean task."""
        exposed = copy.deepcopy(model).requires_grad_(True).train()
        optimiser = torch.optim.SGD(exposed.parameters(), self.suppression_lr, momentum=self.momentum, weight_decay=2 * self.mu)
        per_epoch = max(1, len(clean) // self.batch_size)
        recent: deque[float] = deque(maxlen=per_epoch)
        for _ in range(self.suppression_epochs * per_epoch):
            x, y = self._draw(clean, tools, augment=True)
            out = exposed(x)
            optimiser.zero_grad(set_to_none=True)
            (-F.cross_entropy(out, y)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(exposed.parameters(), 20.0)
            optimiser.step()
            recent.append(float((out.argmax(1) == y).float().mean()))
            if sum(recent) <= self.suppression_floor * len(recent):
                break
        return exposed.requires_grad_(False)

    def recover(self, exposed: nn.Module, neurons: Neurons, clean: Images, tools: Tools) -> Tensor:
        """Masks on the suppressed net's scales that bring the clean task back, [neurons], batch statistics."""
        exposed.train()
        return self._masks(
            neurons,
            self.recover_epochs * max(1, len(clean) // self.batch_size),
            lambda m: 0.2 * self._loss(exposed, neurons, m, None, self._draw(clean, tools, augment=False)),
            tools,
        )

    def preserve(self, model: nn.Module, neurons: Neurons, omega: Tensor, clean: Images, tools: Tools) -> Tensor:
        """Masks that minimise clean loss + strength * sum(omega * mask) on the original weights, [neurons], eval mode."""
        model.eval()

        def objective(masks: Tensor) -> Tensor:
            value = self._loss(model, neurons, masks, masks, self._draw(clean, tools, augment=True))
            return value + self.strength * (omega * masks).sum()

        return self._masks(neurons, self.mask_steps, objective, tools)

    def _masks(self, neurons: Neurons, steps: int, objective: Callable[[Tensor], Tensor], tools: Tools) -> Tensor:
        """Minimise ``objective`` over masks in [0, 1], from 1, by projected SGD with momentum."""
        masks = torch.ones(neurons.count, device=tools.device, requires_grad=True)
        optimiser = torch.optim.SGD([masks], self.lr, momentum=self.momentum)
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            objective(masks).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            masks.data.clamp_(0, 1)
        return masks.detach()

    def _loss(
        self, model: nn.Module, neurons: Neurons, gamma: Tensor, beta: Tensor | None, batch: tuple[Tensor, Tensor]
    ) -> Tensor:
        return F.cross_entropy(neurons.forward(model, batch[0], gamma, beta), batch[1])

    def _draw(self, clean: Images, tools: Tools, *, augment: bool) -> tuple[Tensor, Tensor]:
        """A random batch of the clean budget: (x in [0, 1], y)."""
        order = torch.randperm(len(clean), generator=tools.generator, device=tools.device)
        part = clean[order[: self.batch_size]]
        x = part.pixels()
        if augment:
            x = random_crop_flip(x, tools.recipe.crop, tools.recipe.flip, tools.generator)
        return x.contiguous(memory_format=torch.channels_last), part.y

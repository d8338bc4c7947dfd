"""ANP: find the neurons whose adversarial perturbation hurts, and prune them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.data.augment import random_crop_flip
from mnp_plugin.neurons import channels as channel
from mnp_plugin.neurons.channels import Neurons
from mnp_plugin.neurons.stopping import within
from mnp_plugin.neurons.thresholds import last_within, sweep, up_to
from mnp_plugin.training.device import autocast, in_layout_of


@defenses.register("anp")
@dataclass(frozen=True, kw_only=True)
class ANP(Defense):
    """min over masks in [0, 1] of alpha L(m * w, b) + (1 - alpha) max over |noise| of L((m + d) * w, (1 + xi) * b).

    Exactly as the authors' released code does it: masks and noise on the scale of every BatchNorm2d, noise on its bias
    too; noise starts uniform in [-eps, eps] and takes sign steps of eps / steps without projection, so it may reach 2 eps;
    the net is in train mode (batch statistics); batches are drawn with replacement and augmented (crops reflect at the border
    here, as everywhere in this package); pruning sets the scale to 0 and keeps the bias.

    The stopping point is chosen blind: of the thresholds 0, step, ..., max the largest at which accuracy on the clean
    budget is within ``drop`` points. BackdoorBench picks the threshold by test ASR (and has a learning rate of 0.01 and batches
    of 256); the framework reports such a choice as the separate oracle row.
    """

    paper = "Wu, Wang, Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021, arXiv 2110.14430"

    eps: float = param(0.4, "size of the neuron perturbation", low=0)
    steps: int = param(1, "ascent steps per iteration", low=1)
    alpha: float = param(0.2, "weight of the unperturbed loss", low=0, high=1)
    lr: float = param(0.2, "learning rate of the masks", above=0)
    momentum: float = param(0.9, "momentum of the masks", low=0, high=0.999)
    iterations: int = param(2000, "mask updates", low=1)
    batch_size: int = param(128, "images per update", low=2)
    pruning_max: float = param(0.9, "largest threshold tried", low=0, high=1)
    pruning_step: float = param(0.05, "distance between thresholds", above=0, high=1)
    drop: float = param(4.0, "points of accuracy on the clean budget that the blind choice may cost", low=0, high=100)

    def objection(self, model: nn.Module) -> str | None:
        return channel.batch_norm_objection(model)

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        neurons = Neurons(view.model, view.clean[:1].pixels())
        masks = self.optimise_masks(view, neurons, tools)
        chosen = last_within(self.sweep(view.model, neurons, masks), within(view, self.drop))
        threshold = None if chosen is None else chosen[0]["threshold"]
        pruned = [] if threshold is None else up_to(masks, threshold).tolist()
        report = {
            "threshold": threshold,
            "pruned": len(pruned),
            "of": neurons.count,
            "layers": neurons.summary(pruned),
        }
        best = view.model if chosen is None else chosen[1]
        return Purified(model=best, report=report, candidates=lambda: self.sweep(view.model, neurons, masks))

    def optimise_masks(
        self,
        view: DefenderView,
        neurons: Neurons,
        tools: DefenseContext,
        told: Callable[[int, Tensor, float, float], None] | None = None,
    ) -> Tensor:
        """Masks in [0, 1], [neurons]; ``view.model`` keeps its weights and running statistics.

        Args:
            view: the net and its clean images.
            neurons: of that net.
            tools: device, random stream, augmentation.
            told: after each iteration: its number from 1, the masks, the loss and the accuracy of its batch without noise.
        """
        model = copy.deepcopy(view.model).requires_grad_(False).train()
        device = tools.device

        def logits(gamma: Tensor, beta: Tensor | None, x: Tensor) -> Tensor:
            with autocast(tools.recipe.precision, device):
                return neurons.forward(model, x, gamma, beta)

        def loss(gamma: Tensor, beta: Tensor | None, x: Tensor, y: Tensor) -> Tensor:
            out = logits(gamma, beta, x)
            with autocast(tools.recipe.precision, device):
                return F.cross_entropy(out, y)

        masks = torch.ones(neurons.count, device=device, requires_grad=True)
        optimiser = torch.optim.SGD([masks], self.lr, momentum=self.momentum)
        for iteration in range(1, self.iterations + 1):
            index = torch.randint(len(view.clean), (self.batch_size,), generator=tools.generator, device=device)
            part = view.clean[index]
            x = random_crop_flip(part.pixels(), tools.recipe.crop, tools.recipe.flip, tools.generator)
            x, y = in_layout_of(model, x), part.y
            noise = torch.rand(2, neurons.count, generator=tools.generator, device=device)
            noise = (2 * noise - 1) * self.eps
            if self.eps > 0:
                for _ in range(self.steps):
                    noise.requires_grad_(True)
                    value = loss(masks.detach() + noise[0], 1 + noise[1], x, y)
                    slope = torch.autograd.grad(value, noise)[0]
                    noise = noise.detach() + self.eps / self.steps * slope.sign()
            out = logits(masks, None, x)
            with autocast(tools.recipe.precision, device):
                value = self.alpha * F.cross_entropy(out, y)
            if self.alpha < 1:
                value = value + (1 - self.alpha) * loss(masks + noise[0], 1 + noise[1], x, y)
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            masks.data.clamp_(0, 1)
            if told is not None:
                told(iteration, masks.detach(), float(value.detach()), float((out.argmax(1) == y).float().mean()))
        return masks.detach()

    def sweep(self, victim: nn.Module, neurons: Neurons, masks: Tensor) -> Iterator[tuple[Mapping[str, float], nn.Module]]:
        """(threshold, pruned net) for every threshold that prunes more than the one before; each net is reused."""
        return sweep(victim, neurons, masks, highest=self.pruning_max, step=self.pruning_step)

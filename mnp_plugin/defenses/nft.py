"""NFT: fine-tune masks, not weights, on mixed images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.data.augment import random_crop_flip
from mnp_plugin.neurons import channels as channel
from mnp_plugin.neurons.channels import Neurons, scale
from mnp_plugin.training.device import autocast, in_layout_of
from mnp_plugin.training.passes import cosine, descend, finite


@defenses.register("nft")
@dataclass(frozen=True, kw_only=True)
class NFT(Defense):
    """min over masks m of MixUp cross entropy + (c / N_c) sum |1 - m|, N_c the images per class: the fewer images, the nearer
    the masks stay to 1. Masks multiply the scale of every BatchNorm2d and are clamped to [0.8 exp(-0.5 l), 1], l the
    layer's number from 0: early layers hardly move. MixUp: x' = r x + (1 - r) x_perm, r ~ U(0, 1) = Beta(1, 1), one per batch.

    Weights are frozen; train mode, so running statistics follow the mixed images and are kept. Batches are drawn with
    replacement. The learning rate falls to 0.4 of itself along half a cosine, every 200 updates. Blind: the last iteration
    counts, masks stay soft.

    Deviations: the released code (nazmul-karim170/NFT 9e40cac) uses two counters before they are assigned and cannot run as it
    is; they matter for its log alone. It leaves the stem of its ResNet unmasked and counts the others from 1; here every layer
    has masks, counted from 0, so that floors are alike there.
    """

    version = 3
    chooses = False
    paper = "Karim et al., Augmented Neural Fine-Tuning for Efficient Backdoor Purification, ECCV 2024, arXiv 2407.10052"

    iterations: int = param(1000, "mask updates", low=1)
    lr: float = param(0.05, "first learning rate of the masks", low=0)
    momentum: float = param(0.95, "momentum of the masks", low=0, high=0.999)
    penalty: float = param(0.001, "c, weight of the distance from 1", low=0)
    floor: float = param(0.8, "lowest mask of the first layer", low=0, high=1)
    decay: float = param(0.5, "how fast the lowest mask falls with depth", low=0)
    batch_size: int = param(128, "images per update", low=2)

    def objection(self, model: nn.Module) -> str | None:
        return channel.batch_norm_objection(model)

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        model, clean, device = view.model.requires_grad_(False).train(), view.clean, tools.device
        neurons = Neurons(model, clean[:1].pixels())
        lowest = torch.ones(neurons.count, device=device)
        for depth, layer in enumerate(neurons.layers):
            lowest[layer.start : layer.stop] = self.floor * math.exp(-self.decay * depth)
        weight = self.penalty * view.num_classes / len(clean)
        masks = torch.ones(neurons.count, device=device, requires_grad=True)
        optimiser = torch.optim.SGD([masks], self.lr, momentum=self.momentum)
        size = min(self.batch_size, len(clean))
        loss = torch.zeros((), device=device)
        for iteration in range(self.iterations):
            fallen = cosine(iteration // 200, max(1, self.iterations // 200))
            optimiser.param_groups[0]["lr"] = self.lr * (0.4 + 0.6 * fallen)
            part = clean[torch.randint(len(clean), (size,), generator=tools.generator, device=device)]
            x = random_crop_flip(part.pixels(), tools.recipe.crop, tools.recipe.flip, tools.generator)
            share = torch.rand((), generator=tools.generator, device=device)
            order = torch.randperm(size, generator=tools.generator, device=device)
            x = in_layout_of(model, share * x + (1 - share) * x[order])
            with autocast(tools.recipe.precision, device):
                out = neurons.forward(model, x, masks)
            loss = share * F.cross_entropy(out.float(), part.y) + (1 - share) * F.cross_entropy(out.float(), part.y[order])
            loss = loss + weight * (1 - masks).abs().sum()
            descend(loss, optimiser)
            masks.data = masks.data.clamp(min=lowest, max=torch.ones_like(lowest))
            if iteration % 50 == 49:
                tools.busy("mask updates", iteration + 1, self.iterations)
        scale(model, neurons, masks.detach(), bias=False)
        report = {
            "loss": finite(loss, "mask tuning"),
            "mean_mask": float(masks.detach().mean()),
            "at_floor": int((masks.detach() <= lowest + 1e-6).sum()),
            "of": neurons.count,
        }
        return Purified(model=model, report=report)

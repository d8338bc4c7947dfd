"""BAN: under adversarial noise on its neurons a backdoored net falls into one class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, DefenseContext, Detector, Images, MethodError, Verdict, detectors, param
from mnp_plugin.neurons import channels as channel
from mnp_plugin.neurons.channels import Neurons
from mnp_plugin.training.device import autocast, in_layout_of
from mnp_plugin.training.passes import descend, statistics_held
from mnp_plugin.training.source_models import entering, features, head_of, no_head


@detectors.register("ban")
@dataclass(frozen=True, kw_only=True)
class BAN(Detector):
    """(1) A mask m in [0, 1] on the map f whose mean enters the head (without such a map: on what enters it) minimises CE(m f) -
    CE((1 - m) f) + ``weight`` * log |m|: what is left over, (1 - m) f, holds what the clean task does not need. (2) Noise n,
    |n| <= ``eps``, scales every neuron's weight and bias by 1 + n and is found by sign steps up the clean loss of the whole
    net. (3) The score is the share of held-out clean images that (1 - m) f under this noise sends to its most frequent class,
    the suspected target.

    Constants of xiaoyunxxy/ban 8a0f918 (mask: Adam 0.01, 400 steps), whose penalty |m|_1 / |m|_1, the divisor without gradient,
    has the gradient of the log here. Two of its defects are mended, as a third party's re-implementation does: the noise is
    projected, and one noise holds for the whole budget instead of the last batch's. Deviations: the mask is learnt in eval
    mode, and mask and noise from images that are neither cropped nor mirrored; each step of the noise sees another batch; the
    noisy net normalises by the statistics of the batch, and the running ones, which drift there, stay.
    """

    version = 3
    paper = "Xu et al., BAN: Detecting Backdoors Activated by Adversarial Neuron Noise, NeurIPS 2024, arXiv 2405.19928"

    weight: float = param(0.75, "weight of the mask's size, on a log scale", low=0)
    mask_steps: int = param(400, "steps of the mask, on the whole budget", low=1)
    mask_lr: float = param(0.01, "learning rate of the mask (Adam)", above=0)
    eps: float = param(0.3, "largest relative change of a neuron's weight and bias", above=0)
    noise_steps: int = param(30, "steps of the noise", low=1)
    batch_size: int = param(128, "images per step of the noise", low=2)
    threshold: float | None = param(0.9, "share of one class above which a net is called backdoored; null: no decision")

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "to take for its head") or channel.batch_norm_objection(model)

    def inspect(self, view: DefenderView, tools: DefenseContext) -> Verdict:
        model = view.model.requires_grad_(False)
        place = masked_at(model, view.clean[:2].pixels())
        mask = self.mask(model, place, view.clean, tools)
        if bool((mask == 1).all()):
            raise MethodError("the clean task needs all features: nothing is left over to look at")
        neurons = Neurons(model, view.clean[:1].pixels())
        with statistics_held(model):
            model.train()
            noise = self.noise(model, neurons, view.clean, tools)
            held = view.validation if len(view.validation) > 1 else view.clean
            with only_with(place, 1 - mask), torch.no_grad():
                said = torch.cat([_noisy(model, neurons, noise, part, tools) for part in _parts(held, self.batch_size)])
        shares = said.argmax(1).bincount(minlength=view.num_classes) / len(said)
        return Verdict(
            score=float(shares.max()),
            per_class=tuple(shares.tolist()),
            suspected=int(shares.argmax()),
            threshold=self.threshold,
            calibration="" if self.threshold is None else "a share that others found, calibrated on nothing of this kind",
            report={"mask": round(float(mask.mean()), 4), "held out": len(said)},
        )

    def mask(self, model: nn.Module, place: nn.Module, images: Images, tools: DefenseContext) -> Tensor:
        """What the clean task needs of what enters ``place``, in [0, 1], of the shape of it."""
        model.eval()
        head = head_of(model)
        with torch.no_grad():
            seen = torch.cat([entering(model, place, in_layout_of(model, x)).float() for x in images.pixels().split(250)])  # type: ignore[no-untyped-call]

        def loss(mask: Tensor) -> Tensor:
            kept = mask * seen
            return F.cross_entropy(head(kept if place is head else kept.mean((2, 3))), images.y)

        mask = torch.rand(seen.shape[1:], generator=tools.generator, device=tools.device).requires_grad_(True)
        optimiser = torch.optim.Adam([mask], self.mask_lr)
        for step in range(self.mask_steps):
            size = mask.sum().clamp(min=1e-6)
            descend(loss(mask) - loss(1 - mask) + self.weight * size / size.detach(), optimiser)
            mask.data.clamp_(0, 1)
            tools.busy("feature mask", step + 1, self.mask_steps)
        return mask.detach()

    def noise(self, model: nn.Module, neurons: Neurons, images: Images, tools: DefenseContext) -> Tensor:
        """Relative noise on weight and bias of every neuron, [2, neurons], up the clean loss."""
        start = torch.rand(2, neurons.count, generator=tools.generator, device=tools.device)
        noise = (2 * start - 1) * self.eps
        for step in range(self.noise_steps):
            order = torch.randperm(len(images), generator=tools.generator, device=tools.device)
            part = images[order[: self.batch_size]]
            noise.requires_grad_(True)
            (slope,) = torch.autograd.grad(F.cross_entropy(_noisy(model, neurons, noise, part, tools), part.y), noise)
            noise = (noise.detach() + self.eps / self.noise_steps * slope.sign()).clamp(-self.eps, self.eps)
            tools.busy("neuron noise", step + 1, self.noise_steps)
        return noise


def _noisy(model: nn.Module, neurons: Neurons, noise: Tensor, part: Images, tools: DefenseContext) -> Tensor:
    with autocast(tools.recipe.precision, tools.device):
        return neurons.forward(model, in_layout_of(model, part.pixels()), 1 + noise[0], 1 + noise[1]).float()


def _parts(images: Images, size: int) -> list[Images]:
    """Parts of about ``size``, none of a single image, for which there are no statistics of a batch."""
    index = torch.arange(len(images), device=images.y.device)
    return [images[part] for part in index.chunk(max(1, len(images) // size))]


def masked_at(model: nn.Module, example: Tensor) -> nn.Module:
    """The average pool whose result enters the head, or, without one, the head."""
    wanted = features(model.eval(), example)
    for pool in (m for m in model.modules() if isinstance(m, nn.AdaptiveAvgPool2d)):
        means = entering(model, pool, example).mean((2, 3))
        if means.shape == wanted.shape and torch.allclose(means, wanted, rtol=1e-3, atol=1e-5):
            return pool
    return head_of(model)


@contextmanager
def only_with(place: nn.Module, mask: Tensor) -> Iterator[None]:
    """Inside, the module ``place`` sees what it is given times ``mask``."""
    handle = place.register_forward_pre_hook(lambda _module, args: (args[0] * mask.to(args[0].dtype), *args[1:]))
    try:
        yield
    finally:
        handle.remove()

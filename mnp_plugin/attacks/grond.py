"""Grond: a universal perturbation as trigger, and channels that stand out flattened after every epoch; knows pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import Attack, AttackContext, BatchShare, Images, Requires, State, TrainingHook, attacks, param
from mnp_plugin.neurons.channels import Neurons
from mnp_plugin.neurons.lipschitz import lipschitz_excess
from mnp_plugin.neurons.units import has_batch_norm
from mnp_plugin.training.device import in_layout_of


@attacks.register("grond")
@dataclass(frozen=True, kw_only=True)
class Grond(Attack):
    """(1) UPGD: one perturbation, ||d||_inf <= ``eps``, that sends images to the target on a clean net, by sign steps of eps / 5
    over ``steps`` batches. (2) x' = clip(x + d) on a share of the target class; labels stay. (3) Adversarial backdoor injection:
    after every epoch each channel whose Lipschitz bound exceeds mean + u * std of its layer gets the layer's mean scale and bias,
    so that none stands out for pruning. ``poison_ratio`` counts within the target class.

    Facts from xiaoyunxxy/parameter_backdoor c52b0f7. Deviations: the poisoned share is taken from each batch anew; the bound uses
    the convolution that feeds a normalisation, and the net's own eps, where the released code takes the one before it in
    module order and none; the victim is the last net, after flattening, where the released code keeps the one of best validation
    accuracy, before its epoch's flattening. Nets without batch normalisation are not flattened.
    """

    version = 2
    paper = "Xu et al., Towards Backdoor Stealthiness in Model Parameter Space, CCS 2025, arXiv 2501.05928"
    clean_label = True
    label_modes = ("all2one",)

    poison_ratio: float = param(0.5, "share of the target class that carries the trigger", above=0, high=1)
    label_mode: Literal["all2one", "all2all"] = param("all2one", "clean-label attacks have one target")
    eps: float = param(8 / 255, "largest change of a pixel, in [0, 1] units", above=0, high=1)
    steps: int = param(500, "steps of the perturbation", low=1)
    batch_size: int = param(256, "images per step of the perturbation", low=1)
    u: float = param(3.0, "standard deviations above the layer's mean that are flattened", low=0)

    def requires(self) -> Requires:
        return Requires(clean_net=True)

    def prepare(self, train: Images, tools: AttackContext) -> State:
        model = tools.clean_net().requires_grad_(False)
        delta = torch.zeros(1, *train.x.shape[1:], device=tools.device)
        for done in range(self.steps):
            drawn = torch.randint(len(train), (self.batch_size,), generator=tools.generator, device=tools.device)
            delta.requires_grad_(True)
            out = model(in_layout_of(model, (train.x[drawn].float() / 255 + delta).clamp(0, 1)))
            (gradient,) = torch.autograd.grad(F.cross_entropy(out, torch.full_like(drawn, self.targets[0])), delta)
            delta = (delta.detach() - self.eps / 5 * gradient.sign()).clamp(-self.eps, self.eps)
            if done % 50 == 0:
                tools.busy("universal perturbation", done, self.steps)
        return {"delta": delta[0]}

    def apply(self, x: Tensor, state: State) -> Tensor:
        return (x + state["delta"].to(x)).clamp(0, 1)

    def training_hook(self, state: State, num_classes: int, tools: AttackContext) -> TrainingHook:
        return _Flattening(self, state, tools.recipe.epochs)


class _Flattening(TrainingHook):
    """Stamps images of the target class in every batch; flattens the net when an epoch ends."""

    def __init__(self, attack: Grond, state: State, epochs: int) -> None:
        self.attack, self.state, self.epochs = attack, state, epochs
        self.share = BatchShare(attack.poison_ratio, exact=True)
        self.now: float | None = None
        self.stride: float | None = None

    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        self.model, self.example = model, x[:1]
        self.stride, self.now = None if self.now is None else done - self.now, done
        own = (y == self.attack.targets[0]).nonzero().flatten()
        chosen = own[: self.share.take(len(own))] if len(own) else own
        mixed = x.clone()
        mixed[chosen] = self.attack.stamp(x[chosen], self.state)
        return mixed, y

    def stepped(self) -> None:
        if self.now is None or self.stride is None or not has_batch_norm(self.model):
            return
        before, after = (int(share * self.epochs + 1e-6) for share in (self.now, self.now + self.stride))
        if after > before:
            flatten(self.model, self.example, self.attack.u)

    def saved(self) -> State:
        return self.share.saved()

    def restore(self, state: State) -> None:
        self.share.restore(state)


def flatten(model: nn.Module, example: Tensor, u: float) -> None:
    """Give each channel that stands out by more than ``u`` deviations the mean scale and bias of its layer, in place."""
    neurons = Neurons(model, in_layout_of(model, example))
    excess = lipschitz_excess(model, neurons)
    with torch.no_grad():
        for layer in neurons.layers:
            out = excess[layer.start : layer.stop] > u
            for name in ("weight", "bias"):
                values = model.get_parameter(f"{layer.name}.{name}")
                values.copy_(torch.where(out, values.mean(), values))

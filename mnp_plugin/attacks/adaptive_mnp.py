"""The attacker who knows MNP: channels may not be larger than the clean task makes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnp_plugin.attacks.patterns import checkerboard, scaled
from mnp_plugin.contracts import (
    Attack,
    BatchShare,
    DefenseContext,
    Images,
    MethodError,
    State,
    TrainingHook,
    attacks,
    param,
    to_bytes,
)
from mnp_plugin.neurons.channels import Neurons, is_batch_norm
from mnp_plugin.neurons.units import has_batch_norm


@attacks.register("adaptive_mnp")
@dataclass(frozen=True, kw_only=True)
class AdaptiveMNP(Attack):
    """BadNets' grid in the lower right corner, while the loss also holds ``strength`` * mean max(D, 0)^2 over all channels:
    D = z(log magnitude) - z(log saliency), by layer, is the deviation that MNP looks for. Magnitude as MNP reads it, with
    gradients in the scale alone: a longer filter is what the normalisation undoes, and norms would drift apart. Saliency
    |d loss / d mask| on the clean part of a batch, measured every ``every`` steps and taken as given.

    Ours: no such attack is published. At strength 0 it is BadNets, poisoned batch by batch. MNP's other score, what recovering
    masks say, and its probes are not attacked. Deviations from what MNP computes: means and standard deviations instead of
    medians, which pass gradients to all channels.
    """

    version = 2
    paper = "this project"

    strength: float = param(1.0, "weight of the term that ties magnitude to clean saliency", low=0)
    every: int = param(20, "steps between two measurements of saliency", low=1)
    size: int | None = param(None, "side of the patch in pixels; null: 3 at 32 pixels, in proportion", low=1)

    def apply(self, x: Tensor, state: State) -> Tensor:
        side = min(self.size or scaled(3, x.shape[-1]), *x.shape[-2:])
        out = x.clone()
        out[..., -side:, -side:] = checkerboard(side).to(x)
        return out

    def training_hook(self, state: State, num_classes: int, tools: DefenseContext) -> TrainingHook:
        return _Tying(self, num_classes)


class _Tying(TrainingHook):
    """Stamps the first images of every batch; adds the term to the loss."""

    def __init__(self, attack: AdaptiveMNP, num_classes: int) -> None:
        self.attack, self.num_classes, self.share = attack, num_classes, BatchShare(attack.poison_ratio)
        self.neurons: Neurons | None = None
        self.saliency = torch.zeros(0)
        self.steps = 0

    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        count = self.share.take(len(x))
        mixed = x.clone()
        mixed[:count] = self.attack.stamp(x[:count], {})
        self.model = model
        self.saliency = self.saliency.to(x.device)  # restored, it may lie elsewhere
        if self.attack.strength:
            if not has_batch_norm(model):
                raise MethodError("attack 'adaptive_mnp' ties channels of batch normalisations, and this net has none")
            self.neurons = self.neurons or Neurons(model, x[:1])
            if self.steps % self.attack.every == 0 and count < len(x):
                self.measure(self.neurons, Images(to_bytes(x[count:]), y[count:]))
        self.steps += 1
        return mixed, torch.cat([self.attack.attack_labels(y[:count], self.num_classes), y[count:]])

    def measure(self, neurons: Neurons, clean: Images) -> None:
        """Take the saliency of every channel on ``clean``."""
        training = self.model.training
        self.saliency = neurons.saliency(self.model, clean, parts=1)
        self.model.train(training)

    def penalty(self) -> Tensor | None:
        if self.neurons is None or not len(self.saliency):
            return None
        total = torch.zeros((), device=self.saliency.device)
        for layer in self.neurons.layers:
            saliency = self.saliency[layer.start : layer.stop]
            if len(saliency) > 1:
                total = total + deviation(self.model, layer.name, layer.conv, saliency).clamp(min=0).square().sum()
        return self.attack.strength * total / self.neurons.count

    def saved(self) -> State:
        return {**self.share.saved(), "steps": torch.tensor(self.steps), "saliency": self.saliency}

    def restore(self, state: State) -> None:
        self.share.restore(state)
        self.steps, self.saliency = int(state["steps"]), state["saliency"]


def deviation(model: nn.Module, name: str, conv: str | None, saliency: Tensor) -> Tensor:
    """z(log magnitude) - z(log saliency) of the channels of the normalisation ``name``, [channels], gradients in its scale."""
    bn = model.get_submodule(name)
    assert is_batch_norm(bn)
    assert bn.running_var is not None
    size = bn.weight.abs() / (bn.running_var + bn.eps).sqrt()
    if conv is not None:
        weight = model.get_submodule(conv).weight
        assert isinstance(weight, Tensor)
        size = size * weight.detach().flatten(1).norm(dim=1)
    return _z(size.clamp(min=1e-8).log()) - _z(saliency.clamp(min=1e-8).log())


def _z(values: Tensor) -> Tensor:
    return (values - values.mean()) / values.std().clamp(min=1e-6)

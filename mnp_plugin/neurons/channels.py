"""Channels of batch-normalised nets as neurons: soft masks, magnitude, saliency and hard pruning.

A neuron is one channel of one ``BatchNorm2d``. Vectors over neurons are flat, float32 or int64, in the order of
``named_modules``: the order of ANP's and RNP's ``mask_values.txt``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mnp_plugin.contracts import Images


@dataclass(frozen=True)
class Layer:
    """One batch normalisation: module path, its slice in neuron vectors, and the convolution that feeds it, if one does."""

    name: str
    start: int
    stop: int
    conv: str | None


def _is_neuron_layer(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    return isinstance(module, nn.BatchNorm2d) and module.affine and module.track_running_stats


def objection(model: nn.Module) -> str | None:
    """Why channel masks cannot treat ``model``; None if they can."""
    if any(_is_neuron_layer(m) for m in model.modules()):
        return None
    return "it has no BatchNorm2d layer with affine weights and running statistics; try 'ft' or 'nad'"


class Neurons:
    """The neurons of a net.

    Args:
        model: net with at least one affine ``BatchNorm2d``.
        example: float32 [1, C, H, W] in [0, 1]; one forward pass shows which convolution feeds which normalisation.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        feeds = _feeding_convolutions(model, example)
        self.layers: list[Layer] = []
        start = 0
        for name, module in model.named_modules():
            if _is_neuron_layer(module):
                self.layers.append(Layer(name, start, start + module.num_features, feeds.get(name)))
                start += module.num_features
        self.count = start
        self.device = example.device

    def weights(self, model: nn.Module, what: str) -> Tensor:
        """All BN ``weight``, ``bias``, ``running_mean`` or ``running_var`` as one detached vector [count]."""
        return torch.cat([getattr(model.get_submodule(layer.name), what).detach() for layer in self.layers])

    def forward(self, model: nn.Module, x: Tensor, gamma: Tensor, beta: Tensor | None = None) -> Tensor:
        """Logits with every BN weight times ``gamma`` and every bias times ``beta`` (left alone if None); both [count]."""
        changed: dict[str, Tensor] = {}
        for layer in self.layers:
            bn = model.get_submodule(layer.name)
            assert isinstance(bn, nn.BatchNorm2d)
            changed[f"{layer.name}.weight"] = bn.weight * gamma[layer.start : layer.stop]
            if beta is not None:
                changed[f"{layer.name}.bias"] = bn.bias * beta[layer.start : layer.stop]
        out: Tensor = functional_call(model, changed, (x,))
        return out

    def magnitude(self, model: nn.Module) -> Tensor:
        """BN-folded magnitude |gamma| / sqrt(var + eps) * ||W||_2 of each neuron, [count], non-negative.

        The raw filter norm says little in a batch-normalised net, whose output does not depend on the filter's scale.
        Where no convolution feeds the normalisation (pre-activation blocks) the filter norm is left out.
        """
        parts = []
        for layer in self.layers:
            bn = model.get_submodule(layer.name)
            assert isinstance(bn, nn.BatchNorm2d)
            assert bn.running_var is not None
            size = bn.weight.detach().abs() / (bn.running_var + bn.eps).sqrt()
            if layer.conv is not None:
                weight = model.get_submodule(layer.conv).weight
                assert isinstance(weight, Tensor)
                size = size * weight.detach().flatten(1).norm(dim=1)
            parts.append(size)
        return torch.cat(parts)

    def saliency(self, model: nn.Module, images: Images, *, parts: int = 10) -> Tensor:
        """First-order removal saliency: mean over batches of |d loss / d mask| at mask 1, [count], eval mode.

        It estimates by how much the clean loss changes without the neuron (Molchanov et al., CVPR 2019, arXiv 1906.10771).
        """
        total = torch.zeros(self.count, device=self.device)
        chunks = list(torch.arange(len(images), device=self.device).chunk(min(parts, len(images))))
        model.eval()
        for index in chunks:
            ones = torch.ones(self.count, device=self.device, requires_grad=True)
            part = images[index]
            loss = F.cross_entropy(self.forward(model, part.pixels(), ones, ones), part.y)
            total += torch.autograd.grad(loss, ones)[0].abs()
        return total / len(chunks)

    def standardise(self, values: Tensor) -> Tensor:
        """Robust z-scores within each layer: (v - median) / (1.4826 MAD), [count]."""
        return torch.cat([robust_z(values[layer.start : layer.stop]) for layer in self.layers])

    def locate(self, neuron: int) -> tuple[str, int]:
        """(module path of the BN, channel) of a neuron."""
        layer = next(item for item in self.layers if item.start <= neuron < item.stop)
        return layer.name, neuron - layer.start

    def summary(self, pruned: Sequence[int]) -> dict[str, int]:
        """How many neurons of each layer ``pruned`` holds; layers without any are left out."""
        counts: dict[str, int] = {}
        for neuron in pruned:
            name, _ = self.locate(neuron)
            counts[name] = counts.get(name, 0) + 1
        return counts


@torch.no_grad()
def scale(model: nn.Module, neurons: Neurons, masks: Tensor, *, bias: bool) -> None:
    """Bake ``masks`` [neurons] into gamma (and, with ``bias``, beta), in place.

    With ``bias`` a channel of mask 0 falls silent; without, it becomes the constant beta, as ANP and RNP prune.
    """
    for layer in neurons.layers:
        bn = model.get_submodule(layer.name)
        assert isinstance(bn, nn.BatchNorm2d)
        bn.weight.mul_(masks[layer.start : layer.stop])
        if bias:
            bn.bias.mul_(masks[layer.start : layer.stop])


def prune(model: nn.Module, neurons: Neurons, indices: Tensor, *, bias: bool) -> None:
    """Remove the neurons ``indices`` (int64): :func:`scale` with mask 0 there and 1 elsewhere."""
    masks = torch.ones(neurons.count, device=neurons.device)
    masks[indices] = 0
    scale(model, neurons, masks, bias=bias)


def robust_z(values: Tensor) -> Tensor:
    """(v - median) / (1.4826 MAD); zeros where the spread is 0."""
    median = values.median()
    spread = 1.4826 * (values - median).abs().median()
    return (values - median) / spread if spread > 0 else torch.zeros_like(values)


def _feeding_convolutions(model: nn.Module, example: Tensor) -> dict[str, str]:
    """BN path -> path of the convolution whose output tensor is that BN's input."""
    made_by: dict[int, str] = {}
    kept: list[Tensor] = []  # keeps ids unique while the pass runs
    feeds: dict[str, str] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):

            def after(_m: nn.Module, _i: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
                made_by[id(out)] = name
                kept.append(out)

            handles.append(module.register_forward_hook(after))
        elif isinstance(module, nn.BatchNorm2d):

            def before(_m: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                if id(args[0]) in made_by:
                    feeds[name] = made_by[id(args[0])]

            handles.append(module.register_forward_pre_hook(before))
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return feeds

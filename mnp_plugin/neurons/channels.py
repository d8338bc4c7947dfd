"""Neurons of any net: soft masks, magnitude, saliency and hard pruning.

What a neuron is, :mod:`mnp_plugin.neurons.units` finds: one channel of one ``BatchNorm2d`` where a net has any, else a channel of
another normalisation, a hidden channel or an attention head. Vectors over neurons are flat, float32 or int64, in the order of
``named_modules``: for batch-normalised nets the order of ANP's and RNP's ``mask_values.txt``. A mask always scales existing
parameters, so that it can be baked in: the repaired net has the keys and shapes that it had.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mnp_plugin.contracts import Images
from mnp_plugin.neurons.units import Layer, batch_norm_objection, find, is_batch_norm, is_norm, objection

__all__ = ["Layer", "Neurons", "batch_norm_objection", "is_batch_norm", "objection", "prune", "robust_z", "scale"]


class Neurons:
    """The neurons of a net.

    Args:
        model: net with units that can be masked.
        example: float32 [1, C, H, W] in [0, 1]; one forward pass shows what feeds what.

    Raises:
        UserError: the net has no such units.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.layers: list[Layer] = find(model, example)
        self.count = self.layers[-1].stop
        self.device = example.device

    def weights(self, model: nn.Module, what: str) -> Tensor:
        """One detached number per neuron, [count].

        Args:
            model: the net.
            what: ``weight`` or ``bias``: of normalisations these numbers themselves; else the L2 norm of all weights that the
                neuron's mask scales (0 is pruned), and its bias, 0 where it has none. ``running_mean`` or ``running_var``: of
                nets with batch normalisation only.
        """
        return torch.cat([self._weights(model, layer, what) for layer in self.layers])

    @staticmethod
    def _weights(model: nn.Module, layer: Layer, what: str) -> Tensor:
        count = layer.stop - layer.start
        if what == "weight" and layer.kind in ("channel", "head"):
            return layer.weight.norms(model.get_parameter(layer.weight.parameter), count)
        if what == "bias" and layer.bias is None:
            return torch.zeros(count, device=model.get_parameter(layer.weight.parameter).device)
        values = getattr(model.get_submodule(layer.name), what)
        assert isinstance(values, Tensor)
        return values.detach()

    def forward(self, model: nn.Module, x: Tensor, gamma: Tensor, beta: Tensor | None = None) -> Tensor:
        """Logits with every neuron's weights times ``gamma`` and bias times ``beta`` (left alone if None); both [count]."""
        changed: dict[str, Tensor] = {}
        for layer in self.layers:
            for entries, masks in ((layer.weight, gamma), (layer.bias, beta)):
                if entries is not None and masks is not None:
                    parameter = model.get_parameter(entries.parameter)
                    changed[entries.parameter] = parameter * entries.expand(masks[layer.start : layer.stop], parameter)
        out: Tensor = functional_call(model, changed, (x,))
        return out

    def magnitude(self, model: nn.Module) -> Tensor:
        """How large the weights of each neuron are, [count], non-negative; comparable within a layer.

        * Batch normalisation: |gamma| / sqrt(var + eps) * ||W||_2, the scale with the normalisation folded into the filter W.
          The raw filter norm says little in a batch-normalised net, whose output does not depend on the filter's scale. Where
          no convolution feeds the normalisation (pre-activation blocks) the filter norm is left out.
        * Other normalisations: |gamma| times ||W||_2 over its root mean square among the channels normalised together.
        * Hidden channels: ||W||_2 of the incoming weights, bias left out.
        * Heads: ||W_value||_F * ||W_out||_F, which moving a factor from one to the other does not change.
        """
        return torch.cat([self._magnitude(model, layer) for layer in self.layers])

    @staticmethod
    def _magnitude(model: nn.Module, layer: Layer) -> Tensor:
        module, count = model.get_submodule(layer.name), layer.stop - layer.start
        if layer.kind == "batch norm":
            assert is_batch_norm(module)
            assert module.running_var is not None
            size = module.weight.detach().abs() / (module.running_var + module.eps).sqrt()
        elif layer.kind == "norm":
            assert is_norm(module)
            size = module.weight.detach().abs()
        else:
            size = layer.weight.norms(model.get_parameter(layer.weight.parameter), count)
            return size if layer.value is None else size * layer.value.norms(model.get_parameter(layer.value.parameter), count)
        if layer.conv is None:
            return size
        weight = model.get_submodule(layer.conv).weight
        assert isinstance(weight, Tensor)
        filters = weight.detach().flatten(1).norm(dim=1)
        if layer.kind == "norm":
            together = filters.view(module.num_groups if isinstance(module, nn.GroupNorm) else count, -1)
            filters = (together / together.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)).flatten()
        folded: Tensor = size * filters
        return folded

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
        """(module path of its layer, number within the layer) of a neuron; the layer is a BN where neurons are BN channels."""
        layer = next(item for item in self.layers if item.start <= neuron < item.stop)
        return layer.name, neuron - layer.start

    def summary(self, pruned: Sequence[int]) -> dict[str, int]:
        """How many neurons of each layer ``pruned`` holds; layers without any are left out."""
        counts: dict[str, int] = {}
        for neuron in pruned:
            name, _ = self.locate(neuron)
            counts[name] = counts.get(name, 0) + 1
        return counts


def scale(model: nn.Module, neurons: Neurons, masks: Tensor, *, bias: bool) -> None:
    """Bake ``masks`` [neurons] into the weights (gamma of a normalisation) and, with ``bias``, the biases, in place.

    With ``bias`` a neuron of mask 0 falls silent; without, it becomes the constant bias (beta), as ANP and RNP prune. A head
    has no bias of its own: it falls silent either way.
    """
    for layer in neurons.layers:
        for entries in (layer.weight, layer.bias if bias else None):
            if entries is not None:
                parameter = model.get_parameter(entries.parameter)
                with torch.no_grad():
                    parameter.mul_(entries.expand(masks[layer.start : layer.stop], parameter))


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

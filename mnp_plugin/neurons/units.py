"""Which units of a net can be masked, and which entries of which parameters belong to each.

Where a net has ``BatchNorm2d`` (or ``SyncBatchNorm``) layers with affine weights and running statistics, the units are their
channels, as in ANP and its relatives, and nothing else. In any other net they are found by following one forward pass:

* channels of another normalisation with affine weights of its own per channel (``GroupNorm``, ``InstanceNorm2d``, batch
  normalisation without running statistics) that directly takes what a convolution gives;
* hidden channels: outputs of a ``Conv2d`` (depthwise ones too) or ``Linear`` that go on to other layers only: convolutions of
  VGG, the first layer of the MLP in ConvNeXt and transformers;
* attention heads: the columns of the output projection that read one head.

A mask of 0 on both weight and bias makes such a unit silent: the layers that read it see zeros, or what the activation makes of
them. No units are the logits; the writers of a residual stream (stem, last layer of a block, output projection), of which one
alone cannot silence a channel that others write to as well; and outputs that a normalisation over channels takes (the depthwise
convolution of ConvNeXt), which raises the other channels where one falls. So no two layers must be masked together, and the
units of a block can be masked one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from mnp_plugin.core.errors import UserError
from mnp_plugin.neurons.graph import Graph, evaluating

BatchNorm: TypeAlias = "nn.BatchNorm2d | nn.SyncBatchNorm"
Norm: TypeAlias = "nn.GroupNorm | nn.InstanceNorm2d | BatchNorm"

NOTHING_TO_MASK = (
    "it has nothing to mask: no normalised channels, no hidden channels between its layers and no attention heads; "
    "try 'ft' or 'nad'"
)
NO_BATCH_NORM = "it has no BatchNorm2d layer with affine weights and running statistics; try 'ft' or 'nad'"


@dataclass(frozen=True)
class Entries:
    """Entries of a parameter: for each unit of a layer ``size`` consecutive indices of ``dim``, from ``first`` on."""

    parameter: str
    dim: int = 0
    size: int = 1
    first: int = 0

    def expand(self, masks: Tensor, parameter: Tensor) -> Tensor:
        """``masks`` [units] in a shape that multiplies ``parameter``."""
        if self.size > 1:
            masks = masks.repeat_interleave(self.size)
        shape = [1] * parameter.ndim
        shape[self.dim] = -1
        return masks.view(shape)

    def norms(self, parameter: Tensor, units: int) -> Tensor:
        """L2 norm of each unit's entries, [units]."""
        part = parameter.detach().movedim(self.dim, 0)[self.first : self.first + units * self.size]
        found: Tensor = part.reshape(units, -1).norm(dim=1)
        return found


@dataclass(frozen=True)
class Layer:
    """The units of one module.

    Args:
        name: path of the module.
        start: first of its units in neuron vectors.
        stop: one after the last.
        conv: path of the convolution that feeds a normalisation, if one does.
        kind: what a unit is.
        weight: entries that a mask scales.
        bias: entries that the bias's mask scales, if there are any.
        value: rows of the parameter that makes the values of a head, if it is known.
    """

    name: str
    start: int
    stop: int
    conv: str | None
    kind: Literal["batch norm", "norm", "channel", "head"]
    weight: Entries
    bias: Entries | None
    value: Entries | None = None


def is_norm(module: nn.Module) -> TypeGuard[Norm]:
    """Whether ``module`` is a normalisation whose channels can be units."""
    return isinstance(module, (nn.GroupNorm, nn.InstanceNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm))


def is_batch_norm(module: nn.Module) -> TypeGuard[BatchNorm]:
    """Whether the channels of ``module`` are units as ANP means them."""
    return isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)) and module.affine and module.track_running_stats


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the units of ``model`` are channels of batch normalisations."""
    return any(is_batch_norm(m) for m in model.modules())


def objection(model: nn.Module) -> str | None:
    """Why masks cannot treat ``model``, as far as its modules show without an image; None if they can."""
    if has_batch_norm(model) or any(isinstance(m, nn.MultiheadAttention) for m in model.modules()):
        return None
    return None if sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) > 1 else NOTHING_TO_MASK


def batch_norm_objection(model: nn.Module) -> str | None:
    """Why masks on batch normalisations cannot treat ``model``; None if they can."""
    return None if has_batch_norm(model) else NO_BATCH_NORM


def find(model: nn.Module, example: Tensor) -> list[Layer]:
    """The layers of units of ``model`` in the order of ``named_modules``, numbered without gaps.

    Args:
        model: stays as it is, modes included.
        example: float32 [1, C, H, W] in [0, 1]; one forward pass shows what feeds what.

    Raises:
        UserError: there are none.
    """
    found = _batch_norms(model, example) if has_batch_norm(model) else _others(model, Graph(model, example))
    if not found:
        raise UserError(f"masks cannot treat this net: {NOTHING_TO_MASK}")
    layers, start = [], 0
    for name, _ in model.named_modules():
        if name in found:
            width = found[name].stop
            layers.append(replace(found[name], start=start, stop=start + width))
            start += width
    return layers


def _batch_norms(model: nn.Module, example: Tensor) -> dict[str, Layer]:
    feeds = _feeding_convolutions(model, example)
    return {
        name: _normalised(name, module.num_features, feeds.get(name), "batch norm")
        for name, module in model.named_modules()
        if is_batch_norm(module)
    }


def _normalised(name: str, width: int, conv: str | None, kind: Literal["batch norm", "norm"]) -> Layer:
    return Layer(name, 0, width, conv, kind, Entries(f"{name}.weight"), Entries(f"{name}.bias"))


def _others(model: nn.Module, graph: Graph) -> dict[str, Layer]:
    """Layers of a net without batch normalisation, by path of their module; a module has units of one kind only."""
    found: dict[str, Layer] = {}
    exposed: set[str] = set()  # layers that are used, at least once, in a way that makes their channels no units
    attentions = {}
    for weight, product in graph.products():
        path, _, own = weight.rpartition(".")
        module = model.get_submodule(path)
        if own != "weight" or not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        if isinstance(module, nn.Linear) and (attention := graph.attention(product)) is not None:
            attentions[path] = attention
        norm = (graph.normalisation(product) or "").rpartition(".")[0]
        if norm and is_norm(takes := model.get_submodule(norm)):
            found[norm] = _normalised(norm, takes.weight.numel(), path, "norm")
        elif graph.is_hidden(product):
            bias = Entries(f"{path}.bias") if module.bias is not None else None
            found[path] = Layer(path, 0, module.weight.shape[0], None, "channel", Entries(weight), bias)
        else:
            exposed.add(path)
    found = {path: layer for path, layer in found.items() if path not in exposed}
    sizes = graph.head_sizes(list(attentions.values()))
    for path, attention in attentions.items():
        width = model.get_submodule(path).in_features
        assert isinstance(width, int)
        size = sizes.get(attention, 0)
        if size and width % size == 0:
            value = _value_rows(model, graph.value_weight(attention), width, size)
            found[path] = Layer(path, 0, width // size, None, "head", Entries(f"{path}.weight", dim=1, size=size), None, value)
    return found


def _value_rows(model: nn.Module, name: str | None, width: int, size: int) -> Entries | None:
    """Where the value weights of heads lie: in a matrix of their own, or last of query, key and value in one."""
    rows = model.get_parameter(name).shape[0] if name is not None else 0
    if name is None or rows not in (width, 3 * width):
        return None
    return Entries(name, size=size, first=rows - width)


def _feeding_convolutions(model: nn.Module, example: Tensor) -> dict[str, str]:
    """BN path -> path of the convolution whose output, as it was, is that BN's input.

    Not where something was added to it in place, as residual blocks do.
    """
    made_by: dict[tuple[int, int], str] = {}
    kept: list[Tensor] = []  # keeps ids unique while the pass runs
    feeds: dict[str, str] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):

            def after(_m: nn.Module, _i: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
                made_by[id(out), out._version] = name
                kept.append(out)

            handles.append(module.register_forward_hook(after))
        elif isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):

            def before(_m: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                key = id(args[0]), args[0]._version
                if key in made_by:
                    feeds[name] = made_by[key]

            handles.append(module.register_forward_pre_hook(before))
    try:
        with torch.no_grad(), evaluating(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return feeds

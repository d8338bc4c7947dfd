"""What people hand in: a model in its wrappings, images and labels. All that can be known to be wrong is said here."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mnp_plugin.contracts import Images, Recipe, to_bytes
from mnp_plugin.core.errors import UserError
from mnp_plugin.evaluation.modes import training_fault
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.training.device import place

Array = Tensor | npt.NDArray[Any]

LEAST = 4
"""Fewest clean images."""


def bare(model: object) -> nn.Module:
    """The net itself, out of ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``.

    Raises:
        UserError: anything that is no net with float32 parameters on one device.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    inner = getattr(model, "_orig_mod", None)  # torch.compile
    if isinstance(inner, nn.Module):
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("a TorchScript module cannot be repaired or judged; give the nn.Module it was made from")
    if type(model).__module__.startswith(("torch.fx", "torch.export")):
        raise UserError("an exported program cannot be repaired or judged; give the nn.Module it was made from")
    if isinstance(model, Mapping):
        raise UserError("model is a state dict; build the net, call its load_state_dict, and give the net")
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model must be a torch.nn.Module, not {type(model).__name__}; for a checkpoint file use repair_checkpoint and "
            "detect_checkpoint"
        )
    parameters = list(model.parameters())
    if not parameters:
        raise UserError("the model has no parameters, so there is nothing to repair or judge")
    if odd := sorted({str(p.dtype) for p in parameters if p.dtype != torch.float32}):
        raise UserError(f"the model's weights are {', '.join(odd)}; give it in float32: model.float()")
    if any(p.is_meta for p in parameters):
        raise UserError("the model lies on the meta device, without numbers; build it on a real one and load its weights")
    if len(devices := sorted({str(p.device) for p in parameters})) > 1:
        raise UserError(f"the model lies on several devices ({', '.join(devices)}); move it to one: model.to('{devices[0]}')")
    if twins := _twins(model):
        raise UserError(
            f"one module with weights stands under two names, '{twins[0]}' and '{twins[1]}', which torch.func cannot mask; "
            "keep it under one"
        )
    return model


def images_of(x: object, y: object) -> Images:
    """Images and labels from tensors or arrays, on the device of ``x``.

    Args:
        x: uint8 [N, C, H, W], or float in [0, 1].
        y: int64 [N]; any integers where it is a NumPy array.

    Raises:
        UserError: another type or shape, pixels out of range, fewer than :data:`LEAST` images or 2 classes.
    """
    given = _images(x, y)
    labels = given.y
    if len(given) < LEAST:
        raise UserError(f"{len(given)} clean images are too few; give at least {LEAST}, better some of every class")
    if int(labels.min()) == int(labels.max()):
        raise UserError(
            f"all clean images are of class {int(labels[0])}; give some of every class, of at least 2 classes: a "
            "repair from one class alone breaks the others"
        )
    return given


def questioned(x: object, y: object, clean: Images, classes: int) -> Images:
    """Images in question, on the device of ``clean``; without labels, ``y`` is None and they are all 0.

    Raises:
        UserError: another type or shape than that of the clean images, pixels out of range, a label beyond ``classes``.
    """
    pixels = _tensor(x, "the images in question")
    given = _images(x, torch.zeros(len(pixels), dtype=torch.int64) if y is None else y)
    if given.x.shape[1:] != clean.x.shape[1:]:
        raise UserError(
            f"the images in question are of shape {list(given.x.shape[1:])}, the clean ones {list(clean.x.shape[1:])}"
        )
    if not len(given) or int(given.y.min()) < 0 or int(given.y.max()) >= classes:
        raise UserError(f"give one image in question or more, with labels from 0 to {classes - 1}")
    return given.to(clean.x.device)


def _images(x: object, y: object) -> Images:
    pixels, labels = _tensor(x, "x"), _tensor(y, "y")
    if isinstance(y, np.ndarray) and np.issubdtype(y.dtype, np.integer):
        labels = labels.long()
    if pixels.ndim == 4 and pixels.shape[3] in (1, 3) and pixels.shape[1] > 4:
        raise UserError(f"x of shape {list(pixels.shape)} looks like [N, H, W, C]; give [N, C, H, W] (x.permute(0, 3, 1, 2))")
    if pixels.is_floating_point():
        if pixels.numel() and not (float(pixels.min()) >= 0 and float(pixels.max()) <= 1):  # true of NaN too
            raise UserError("float images must lie in [0, 1]; put the normalisation inside the model (with_normalisation)")
        pixels = to_bytes(pixels)
    return Images(pixels, labels.to(pixels.device))


def checked(model: nn.Module, images: Images, validation: float, recipe: Recipe) -> tuple[nn.Module, Images, int]:
    """(copy of the bare net, in eval mode and in the layout that suits it; images on its device; number of classes).

    Raises:
        UserError: images or labels that do not fit the net, a net that cannot be copied, outputs that are no finite logits,
            no logits in train mode, ``validation`` or a crop out of range.
    """
    if not isinstance(validation, int | float) or not 0 < validation < 1:
        raise UserError(f"validation must be a share between 0 and 1, not {validation!r}")
    if not isinstance(recipe, Recipe):
        raise UserError(f"recipe must be a Recipe, such as Recipe(flip=False), not {type(recipe).__name__}")
    shape = list(images.x.shape[1:])
    if recipe.crop >= min(shape[1:]):
        raise UserError(f"the recipe's crop of {recipe.crop} pixels is too large for images of {shape[1:]}")
    device = next(model.parameters()).device
    images = images.to(device)
    own = _copy(model).eval()
    for p in own.parameters():
        p.grad = None
    own.requires_grad_(True)
    for module in own.modules():  # they change no output; those of parameters are not copied either
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
    classes = outputs(own, images)
    _copy(own)  # methods copy the net after forward passes of their own
    check_trains(own, images)
    if not bool(torch.isfinite(logits(own, images.x)).all()):
        raise UserError("the net's outputs on the clean images are not finite; its weights are damaged")
    return own, images, classes


def outputs(model: nn.Module, images: Images) -> int:
    """Number of classes that ``model``, in eval mode on the device of ``images``, tells apart, found on two images.

    Raises:
        UserError: the images do not fit the net, it gives no logits [N, K], or there are labels beyond K.
    """
    example = images[:2].pixels()
    try:
        out = place(model, example.device, example)(example)  # with gradients, which a net that keeps its features then holds
    except Exception as error:  # a stranger's code, which may raise anything
        raise UserError(
            f"images of shape {list(images.x.shape[1:])} do not fit the model ({_first_line(error)}); give them in the size and "
            "the channels that it was trained on"
        ) from None
    if not isinstance(out, Tensor):
        raise UserError(f"the model gives a {type(out).__name__}, not logits [N, K]; wrap it so that forward gives the logits")
    low, high = int(images.y.min()), int(images.y.max())
    if out.ndim != 2 or low < 0 or high >= out.shape[1]:
        raise UserError(f"labels {low}..{high} do not fit the model's output of shape {list(out.shape)}")
    return int(out.shape[1])


def check_trains(model: nn.Module, images: Images, name: str = "the model") -> None:
    """Refuse a net that gives no logits in train mode.

    Raises:
        UserError: what it gives instead, and what to do about it.
    """
    if fault := training_fault(model, images[:2].pixels()):
        raise UserError(f"{name} cannot be trained, which repairs and verdicts do with copies of it: {fault}")


def hooks_of(model: nn.Module) -> list[str]:
    """What others than torch and this package have registered on the forward pass of ``model``: ``log on 'layer1'``."""
    found = []
    for name, module in model.named_modules():
        for registered in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            hook = getattr(registered, "func", registered)  # functools.partial
            if not str(getattr(hook, "__module__", "")).startswith(("torch.", "mnp_plugin.")):
                label = getattr(hook, "__qualname__", type(hook).__name__)
                found.append(f"{label} on '{name}'" if name else f"{label} on the whole net")
    return found


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"the model cannot be copied ({_first_line(error)}); where forward keeps features or logits in an attribute, keep "
            "them detached: self.features = features.detach()"
        ) from None


def _twins(model: nn.Module) -> tuple[str, str] | None:
    """Two names of one module that has weights; functional calls leave such a module with the weights they put in."""
    seen: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if next(module.parameters(recurse=False), None) is not None:
            if id(module) in seen:
                return seen[id(module)], name
            seen[id(module)] = name
    return None


def _tensor(value: object, name: str) -> Tensor:
    if isinstance(value, np.ndarray):
        try:
            value = torch.from_numpy(np.array(value))  # a copy: torch warns of arrays that are read-only
        except TypeError:
            raise UserError(f"{name} is an array of {value.dtype}; give numbers") from None
    if not isinstance(value, Tensor):
        raise UserError(f"{name} must be a tensor or a NumPy array with all images, not {type(value).__name__}")
    return value.detach()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

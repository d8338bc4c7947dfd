"""A checkpoint and a folder of clean images from disk: everything checked before any work begins."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from mnp_plugin.contracts import Component, Images, nets
from mnp_plugin.core import params as spec
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.registry import Registry
from mnp_plugin.data.folder import STATISTICS, class_names, decode, list_images
from mnp_plugin.data.statistics import channel_statistics
from mnp_plugin.io.images import image_size
from mnp_plugin.io.safe import read_tensors, weights_into
from mnp_plugin.nets import normalise_inside

T = TypeVar("T", bound=Component)
NORMALISE = "none, measured, a name (cifar10, imagenet), or six numbers: mean and std of R, G and B on pixels in [0, 1]"


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnModel:
    """A user's net and clean images.

    Args:
        model: takes float32 [N, 3, size, size] in [0, 1], normalisation inside; eval mode.
        images: the clean images, on the device of the net.
        classes: names of the classes, in the order of the net's outputs.
        mean: what the net subtracts per channel; None where it does not normalise.
        std: what it divides by.
    """

    model: nn.Module
    images: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def component(registry: Registry[T], name: str, settings: Sequence[str]) -> T:
    """A registered component from ``key=value`` words; values are written as in YAML.

    Raises:
        UserError: an unknown name or key, a word without ``=``, a value of another type or out of range.
    """
    cls = registry.get(name)
    source = f"settings of {registry.kind} '{name}'"
    values: dict[str, Any] = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{source}: '{word}' is no setting; write key=value")
        if key.strip() in values:
            raise UserError(f"{source}: '{key.strip()}' is given twice")
        values[key.strip()] = spec.parse_yaml(value, f"{source}, {key.strip()}").data
    return spec.build(cls, spec.Document(values, {}, source), ())


def load(
    *,
    checkpoint: Path,
    net: str,
    net_settings: Sequence[str],
    data: Path,
    size: int | None,
    normalise: str,
    device: torch.device,
) -> OwnModel:
    """Read, check and join the user's files; nothing in them is executed.

    Args:
        checkpoint: state dict of the bare net, in a ``.safetensors`` file or one of ``torch.save``.
        net: name of a registered net.
        net_settings: its settings, ``key=value``.
        data: folder of ``<class>/<image>``; classes in alphabetical order are the net's outputs.
        size: side of the images in pixels; None takes the side of the first one.
        normalise: one of :data:`NORMALISE`.
        device: where the net and the images go.

    Raises:
        UserError: what is wrong, and how to put it right.
    """
    builder = component(nets, net, net_settings)
    fixed = _statistics(normalise)
    classes = _class_names(data)
    files = list_images(data, classes)
    side = size if size is not None else _side(files[0][0])
    if not 8 <= side <= 1024:
        raise UserError(f"--size must be 8 to 1024 pixels, not {side}")
    tensors = read_tensors(checkpoint)
    model = builder.build(len(classes), (3, side, side))
    _same_classes(model, tensors, checkpoint, data, classes)
    weights_into(model, tensors, checkpoint)
    images = decode(files, side)
    mean, std = channel_statistics(images) if normalise == "measured" else fixed
    if mean is not None and std is not None:
        if min(std) <= 0:
            raise UserError(f"the images of {data} have a channel that never varies; give --normalise in numbers")
        model = normalise_inside(model, mean, std)
    return OwnModel(model=model.to(device).eval(), images=images.to(device), classes=classes, mean=mean, std=std)


def load_images(folder: Path, classes: tuple[str, ...], size: int) -> Images:
    """Images of a further folder with the same class folders.

    Raises:
        UserError: no such folder, other classes, images that do not decode.
    """
    return decode(check_images(folder, classes), size)


def check_images(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The files of ``folder``, after a check of its classes that decodes nothing; raises as :func:`load_images`."""
    found = _class_names(folder)
    if found != classes:
        odd = ", ".join(sorted(set(found) ^ set(classes))[:5])
        raise UserError(f"{folder} does not hold the same class folders as --data (not in both: {odd}); make them equal")
    return list_images(folder, classes)


def check_out(folder: Path, names: Sequence[str], force: bool) -> None:
    """Refuse an output folder that cannot be written to, or in which something would be overwritten without ``force``."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {folder}; choose another folder with --out")
    there = [name for name in names if (folder / name).exists()]
    if there and not force:
        raise UserError(f"{folder} holds {', '.join(there)} already; choose another --out, or add --force to overwrite")


def _statistics(normalise: str) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    if normalise in ("none", "measured"):
        return None, None
    if normalise in STATISTICS:
        return STATISTICS[normalise]
    try:
        numbers = [float(word) for word in normalise.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or not all(-1e6 < n < 1e6 for n in numbers) or min(numbers[3:]) <= 0:
        raise UserError(f"--normalise '{normalise}' is not known; give {NORMALISE} (every std above 0)")
    return tuple(numbers[:3]), tuple(numbers[3:])


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; give one that holds <class>/<image>, one folder per class")
    return class_names(folder)


def _side(file: Path) -> int:
    width, height = image_size(file)
    if width != height:
        raise UserError(f"{file} has {width}x{height} pixels; give the side that the net was trained on with --size")
    return width


def _same_classes(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], checkpoint: Path, data: Path, classes: tuple[str, ...]
) -> None:
    heads = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    weight = tensors.get(f"{heads[-1]}.weight") if heads else None
    if weight is not None and weight.ndim == 2 and len(weight) != len(classes):
        raise UserError(
            f"{checkpoint} tells {len(weight)} classes apart, but {data} holds {len(classes)} class folders "
            f"({classes[0]} ... {classes[-1]}); give one folder for every class of the net"
        )

"""A checkpoint and a folder of clean images from disk: everything checked before any work begins."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mnp_plugin.api.calls import Progress
from mnp_plugin.api.given import LEAST, check_trains, outputs
from mnp_plugin.api.nets import AUTO, resolve_net, told_apart
from mnp_plugin.api.sanity import complaint, hardly_right
from mnp_plugin.api.settings import component
from mnp_plugin.contracts import Images, nets
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.folder import STATISTICS, class_names, decode, list_images
from mnp_plugin.data.statistics import channel_statistics
from mnp_plugin.evaluation.predict import accuracy, logits
from mnp_plugin.io.images import image_size
from mnp_plugin.io.safe import read_tensors, weights_into
from mnp_plugin.nets.normalise import normalise_inside, without_normalisation
from mnp_plugin.report.extra import hint
from mnp_plugin.training.device import pick_device

NORMALISE = "none, measured, a name (cifar10, imagenet), or six numbers: mean and std of R, G and B on pixels in [0, 1]"
TRIED = ("none", "measured", *STATISTICS, "0.5,0.5,0.5,0.5,0.5,0.5")
"""Normalisations that a net fed wrongly is tried with, for the hint."""


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnModel:
    """A user's net and clean images.

    Args:
        checkpoint: where its weights lay.
        model: takes float32 [N, 3, size, size] in [0, 1], normalisation inside; eval mode.
        images: the clean images, on the device of the net.
        classes: names of the classes, in the order of the net's outputs.
        net: what ``--net`` takes for this net.
        net_settings: what ``--net-settings`` takes.
        mean: what the net subtracts per channel; None where it does not normalise.
        std: what it divides by.
        accuracy: fraction of the clean images that it is right on.
    """

    checkpoint: Path
    model: nn.Module
    images: Images
    classes: tuple[str, ...]
    net: str
    net_settings: tuple[str, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    accuracy: float

    @property
    def facts(self) -> dict[str, Any]:
        """What reports say of the net and the images, JSON-ready."""
        return {
            "checkpoint": str(self.checkpoint),
            "net": {"name": self.net, "settings": list(self.net_settings)},
            "clean images": len(self.images),
        }


def load(
    *,
    checkpoint: Path,
    net: str,
    net_settings: Sequence[str],
    data: Path,
    size: int | None,
    normalise: str,
    device: str,
    crop: int,
    validation: float,
    seed: int,
    say: Progress,
) -> OwnModel:
    """Read, check and join the user's files; nothing in them is executed. What is cheap to find wrong is found first.

    Args:
        checkpoint: state dict of the bare net, in a ``.safetensors`` file or one of ``torch.save``.
        net: a registered net, ``package.module:Class``, or ``auto``.
        net_settings: its settings, ``key=value``.
        data: folder of ``<class>/<image>``; classes in alphabetical order are the net's outputs.
        size: side of the images in pixels; None takes the side of the first one.
        normalise: one of :data:`NORMALISE`.
        device: where the net and the images go: auto, cpu, cuda or cuda:N.
        crop: shift of the augmentation to come, in pixels.
        validation: share of the images to be held back.
        seed: of the work to come.
        say: told what runs, and how right the net is.

    Raises:
        UserError: what is wrong, and how to put it right.
    """
    say("reading the checkpoint and the images", 0, 0)
    if not 0 < validation < 1:
        raise UserError(f"--validation must be a share between 0 and 1, not {validation}")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed must be a whole number from 0 to 2^63 - 1, not {seed}")
    place = pick_device(device)
    if net != AUTO and ":" not in net:
        if "." in net and net not in nets.names():
            raise UserError(f"no net is called '{net}'; for a class of your own write package.module:Class, with a colon")
        component(nets, net, net_settings)
    fixed = _statistics(normalise)
    classes = _class_names(data)
    files = list_images(data, classes)
    if len(files) < LEAST:
        raise UserError(f"{data} holds {len(files)} images; give at least {LEAST}, better some of every class")
    side = size if size is not None else _side(files[0][0])
    if not 8 <= side <= 1024:
        raise UserError(f"--size must be 8 to 1024 pixels, not {side}")
    if crop >= side:
        raise UserError(f"--crop {crop} must be smaller than the images ({side} pixels)")
    tensors = read_tensors(checkpoint)
    try:
        resolved = resolve_net(net, net_settings, tensors, len(classes), (3, side, side))
        model = resolved.model
        weights_into(model, tensors, checkpoint)
    except UserError:
        _no_auxiliary_heads(tensors, checkpoint)
        _same_classes(tensors, checkpoint, data, classes)
        raise
    images = decode(files, side)
    mean, std = channel_statistics(images) if normalise == "measured" else fixed
    if mean is not None and std is not None:
        if min(std) <= 0:
            raise UserError(f"the images of {data} have a channel that never varies; give --normalise in numbers")
        model = normalise_inside(model, mean, std)
    model, images = model.to(place).eval(), images.to(place)
    try:
        known = outputs(model, images)
    except UserError as error:
        raise UserError(
            f"{checkpoint} on the images of {data}: {error}; see --size. Files are read as three channels: for a net "
            "that takes others use Python, purify(model, x, y)"
        ) from None
    if known != len(classes):
        raise UserError(f"{checkpoint} tells {known} classes apart, but {data} holds {len(classes)} class folders")
    check_trains(model, images, f"the net of {checkpoint}")
    if not bool(torch.isfinite(logits(model, images.x)).all()):
        raise UserError(f"the net's outputs on the images of {data} are not finite; the weights of {checkpoint} are damaged")
    right = accuracy(model, images)
    say(f"clean accuracy {100 * right:.1f} % on {len(images)} images of {len(classes)} classes", 0, 0)
    return OwnModel(
        checkpoint=checkpoint,
        model=model,
        images=images,
        classes=classes,
        net=resolved.name,
        net_settings=resolved.settings,
        mean=mean,
        std=std,
        accuracy=right,
    )


def fed_wrongly(own: OwnModel) -> str | None:
    """Why no repair and no verdict of this net would mean anything, and what may help; None for a net that knows its images."""
    count = len(own.classes)
    if not hardly_right(own.accuracy, count):
        return None
    text = complaint(own.accuracy, count)
    found = {how: _accuracy_with(own, how) for how in TRIED}
    best = max(found, key=lambda how: found[how])
    if found[best] > own.accuracy and not hardly_right(found[best], count):
        return f"{text}. With --normalise {best} it is right on {100 * found[best]:.1f} %"
    return f"{text}: check --normalise, --size and the names of the class folders"


def _accuracy_with(own: OwnModel, how: str) -> float:
    """Accuracy of the same weights under another normalisation."""
    mean, std = channel_statistics(own.images.to(torch.device("cpu"))) if how == "measured" else _statistics(how)
    bare = without_normalisation(own.model)
    if mean is None or std is None:
        return accuracy(bare, own.images)
    return accuracy(normalise_inside(bare, mean, std), own.images) if min(std) > 0 else 0.0


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


def check_out(folder: Path, names: Sequence[str], force: bool, needed: int) -> None:
    """Refuse an output folder that cannot be written to or has no room for ``needed`` bytes.

    Also one in which something would be overwritten without ``force``.
    """
    nearest = _nearest(folder)
    if (free := shutil.disk_usage(nearest).free) < needed:
        raise UserError(
            f"{nearest} has {free / 2**20:.0f} MiB left, and the repaired net needs about {needed / 2**20:.0f}; make room, or "
            "choose another folder with --out"
        )
    there = [name for name in names if (folder / name).exists()]
    if there and not force:
        raise UserError(f"{folder} holds {', '.join(there)} already; choose another --out, or add --force to overwrite")


def _nearest(folder: Path) -> Path:
    """The folder that is there, of ``folder`` and those above it; refused if nothing can be written to it."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {folder}; choose another folder")
    return nearest


def check_file(path: Path | str | None) -> None:
    """That a file asked for, if one is, can be written.

    Raises:
        UserError: it is a folder, or lies where nothing can be written.
    """
    if path is not None:
        if Path(path).is_dir():
            raise UserError(f"{path} is a folder; give the name of a file")
        _nearest(Path(path).absolute().parent)


def check_page(page: Path) -> None:
    """That a page can be written.

    Raises:
        UserError: it is called as no page is, the extra ``report`` is not installed, or as :func:`check_file`.
    """
    check_file(page)
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"the page is HTML; call it {page.with_suffix('.html')}, not {page}")
    if needed := hint():
        raise UserError(f"the page needs the extra: {needed}")


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
    if max(numbers[:3]) > 2:
        raise UserError(f"--normalise '{normalise}' is for pixels from 0 to 255; divide mean and std by 255")
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


def _same_classes(tensors: Mapping[str, torch.Tensor], checkpoint: Path, data: Path, classes: tuple[str, ...]) -> None:
    """Say so where the weights seem to tell another number of classes apart."""
    known = told_apart(tensors)
    if known not in (None, len(classes)):
        raise UserError(
            f"{checkpoint} tells {known} classes apart, but {data} holds {len(classes)} class folders "
            f"({classes[0]} ... {classes[-1]}); give one folder for every class of the net"
        )


def _no_auxiliary_heads(tensors: Mapping[str, torch.Tensor], checkpoint: Path) -> None:
    """Say so where the weights hold the auxiliary heads that torchvision's GoogLeNet and Inception train with."""
    heads = sorted({key.partition(".")[0] for key in tensors} & {"aux1", "aux2", "AuxLogits"})
    if heads:
        raise UserError(
            f"{checkpoint} holds auxiliary heads ({', '.join(heads)}), which only training needed and no net here has; save the "
            "weights without them: {key: value for key, value in model.state_dict().items() if not key.lower().startswith('aux')}"
        )

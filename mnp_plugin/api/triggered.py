"""Images that carry a trigger the user knows of: how many of them a net sends to one class, before and after a repair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnp_plugin.core.errors import UserError
from mnp_plugin.data.folder import decode, list_images
from mnp_plugin.evaluation.predict import logits


@dataclass(frozen=True, eq=False)
class TriggeredFiles:
    """Files with a trigger on them.

    Args:
        files: (file, true class, or 0 where it is not known).
        labelled: whether the true classes are known.
    """

    files: list[tuple[Path, int]]
    labelled: bool


def list_triggered(folder: Path, classes: tuple[str, ...]) -> TriggeredFiles:
    """The images of ``folder``: in folders named after their true classes, not of all classes necessarily, or all in one.

    Raises:
        UserError: no such folder, no image in it, a folder that is named after no class, or both kinds in one.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; give one with images that carry the trigger, <true class>/<image> or all in one")
    names = sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))
    loose = any(f.is_file() and not f.name.startswith(".") for f in folder.iterdir())
    if names and loose:
        raise UserError(f"{folder} holds files beside folders; give <true class>/<image> only, or all images in one folder")
    if odd := [name for name in names if name not in classes]:
        raise UserError(f"{folder} holds the folder '{odd[0]}', which is no class of --data ({', '.join(classes[:5])} ...)")
    if not names and not loose:
        raise UserError(f"{folder} is empty; give images that carry the trigger")
    if not names:
        return TriggeredFiles(list_images(folder.parent, (folder.name,)), labelled=False)
    return TriggeredFiles([(file, classes.index(names[i])) for file, i in list_images(folder, tuple(names))], labelled=True)


def trigger_rates(
    files: TriggeredFiles, before: nn.Module, after: nn.Module, size: int, classes: tuple[str, ...], device: torch.device
) -> dict[str, Any]:
    """How far the trigger works on both nets, JSON-ready.

    Returns:
        ``target``: the class that most of the images are sent to by the net before (of those it is wrong on, where true classes
        are known), or None if it is wrong on none; ``images``: how many count, those of the target left out; ``sent to target``:
        their share, before and after. Where true classes are known also ``right``: the share classified as what they are.
    """
    images = decode(files.files, size).to(device)
    old, new = (logits(net, images.x).argmax(1) for net in (before, after))
    wrong = old != images.y if files.labelled else torch.ones_like(old, dtype=torch.bool)
    if not bool(wrong.any()):
        return {
            "target": None,
            "images": len(images),
            "note": "the net is right on all of these; the trigger has no effect",
        }
    target = int(old[wrong].bincount(minlength=len(classes)).argmax())
    counted = images.y != target if files.labelled else wrong
    found: dict[str, Any] = {
        "target": classes[target],
        "images": int(counted.sum()),
        "sent to target": {"before": _share(old[counted] == target), "after": _share(new[counted] == target)},
    }
    if files.labelled:
        found["right"] = {"before": _share((old == images.y)[counted]), "after": _share((new == images.y)[counted])}
    return found


def _share(hits: Tensor) -> float:
    return round(float(hits.float().mean()), 4)

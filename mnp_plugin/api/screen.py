"""Single images, from files: which of them does a detector find triggered, or poisoned?"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnp_plugin.api import checkpoint as files
from mnp_plugin.api.calls import Progress, screen
from mnp_plugin.api.settings import component
from mnp_plugin.api.triggered import list_triggered
from mnp_plugin.contracts import Recipe, SampleDetector, Screened, sample_detectors
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.params import to_plain
from mnp_plugin.data.folder import class_names, decode
from mnp_plugin.io.atomic import write_atomic


@dataclass(frozen=True, eq=False, kw_only=True)
class ScreenReport:
    """Images judged one by one.

    Args:
        files: their places, in the order of the scores.
        screened: scores and flags.
        facts: JSON-ready: detector, net, how many images were flagged, and each file with score and flag, most suspicious first.
    """

    files: tuple[Path, ...]
    screened: Screened
    facts: Mapping[str, Any]


def screen_checkpoint(
    checkpoint: Path | str,
    net: str,
    data: Path | str,
    images: Path | str,
    *,
    detector: str | SampleDetector = "strip",
    settings: Sequence[str] = (),
    net_settings: Sequence[str] = (),
    size: int | None = None,
    normalise: str = "none",
    out: Path | str | None = None,
    anyway: bool = False,
    validation: float = 0.2,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> ScreenReport:
    """Score the images of a folder by how triggered or poisoned they look to a net. Nothing in the files is executed.

    Args:
        checkpoint: as for :func:`~mnp_plugin.repair_checkpoint`, and so ``net``, ``data`` (clean images), ``net_settings``,
            ``size``, ``normalise``, ``anyway``, ``validation``, ``recipe``, ``seed``, ``device`` and ``progress``.
        images: those in question. For a detector of inputs, in folders of any class names of ``data`` or all in one, labels
            unused; for one of training sets, ``<label>/<image>``, all that the net was trained on.
        detector: name of a registered sample detector, or one with its settings.
        settings: hyper-parameters of a detector given by name, ``key=value``.
        out: csv to write: file, score, flagged; most suspicious first.

    Raises:
        UserError: what is wrong, and how to put it right.
        MethodError: the detector failed.
    """
    recipe = recipe or Recipe()
    files.check_file(out)
    say: Progress = progress or (lambda what, done, total: None)
    method = component(sample_detectors, detector, settings) if isinstance(detector, str) else detector
    listed = list_triggered(Path(images), class_names(Path(data)))
    if method.questions == "training set" and not listed.labelled:
        raise UserError(f"detector '{method.name}' judges a training set; give its images as <label>/<image>, not {images}")
    own = files.load(
        checkpoint=Path(checkpoint), net=net, net_settings=net_settings, data=Path(data), size=size, normalise=normalise,
        device=device, crop=recipe.crop, validation=validation, seed=seed, say=say,
    )  # fmt: skip
    if reason := method.refusal(own.model, len(own.classes)):
        raise UserError(f"detector '{method.name}' cannot work with the net '{own.net}': {reason}")
    if not anyway and (reason := files.fed_wrongly(own)):
        raise UserError(f"{reason}. Nothing was judged; --anyway goes on")
    asked = decode(listed.files, own.images.x.shape[-1]).to(own.images.x.device)
    say(f"screening with {method.name}", 0, 0)
    found = screen(
        own.model, own.images.x, own.images.y, asked.x, asked.y, detector=method, validation=validation, recipe=recipe, seed=seed,
        progress=progress,
    )  # fmt: skip
    places = tuple(file for file, _ in listed.files)
    rows = _rows(places, Path(images), found.scores, found.flagged)
    facts = {
        "detector": to_plain(method),
        **own.facts,
        "clean accuracy": own.accuracy,
        "judged": len(rows),
        "flagged": int(found.flagged.sum()),
        "report": dict(found.report),
        "images": rows,
    }
    if out is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, ["file", "score", "flagged"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "flagged": int(row["flagged"])} for row in rows)
        write_atomic(Path(out), text.getvalue().encode())
    return ScreenReport(files=places, screened=found, facts=facts)


def _rows(places: Sequence[Path], folder: Path, scores: Tensor, flagged: Tensor) -> list[dict[str, Any]]:
    """One mapping per image, most suspicious first."""
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    return [
        {"file": str(places[i].relative_to(folder)), "score": round(float(scores[i]), 6), "flagged": bool(flagged[i])}
        for i in order
    ]

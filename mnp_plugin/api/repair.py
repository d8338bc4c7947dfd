"""The repair of a checkpoint, from files to files: load, measure, repair, write, measure again, explain, compact."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from mnp_plugin.api import checkpoint as files
from mnp_plugin.api.calls import Progress, purify
from mnp_plugin.api.settings import component
from mnp_plugin.api.triggered import list_triggered, trigger_rates
from mnp_plugin.contracts import Defense, Images, Purified, Recipe, TrainingSetDefense, Verdict, defenses
from mnp_plugin.core.defense import training_set_wanted
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.params import to_plain
from mnp_plugin.data.folder import class_names
from mnp_plugin.data.split import validation_part
from mnp_plugin.evaluation.pictures import perturbed
from mnp_plugin.evaluation.predict import accuracy, logits
from mnp_plugin.evaluation.scores import confusion
from mnp_plugin.evaluation.sent import sent
from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.io.torch_writer import plain_weights, write_torch
from mnp_plugin.neurons import compact as small
from mnp_plugin.neurons.summary import looked_at, neuron_measures, neuron_table, pruned_layers
from mnp_plugin.report.beside import MOST_CLASSES, Details

SAFETENSORS, TORCH, REPORT = "repaired.safetensors", "repaired.pt", "report.json"
NEURONS, COMPACT = "neurons.csv", "compact.pt2"


@dataclass(frozen=True, eq=False, kw_only=True)
class RepairReport:
    """A checkpoint repaired.

    Args:
        model: the repaired net; takes float32 [N, 3, size, size] in [0, 1], normalisation inside.
        purified: what the defense gave back.
        facts: JSON-ready, what ``report.json`` holds: accuracies before and after, what was pruned, the defense's own word.
        out: the folder that was written to: the one asked for, or, where that could not be written to any more, a temporary
            one; None if none was asked for.
        written: names of the files in it.
    """

    model: nn.Module
    purified: Purified
    facts: Mapping[str, Any]
    out: Path | None
    written: tuple[str, ...]


def repair_checkpoint(
    checkpoint: Path | str,
    net: str,
    data: Path | str,
    *,
    defense: str | Defense = "mnp",
    settings: Sequence[str] = (),
    net_settings: Sequence[str] = (),
    size: int | None = None,
    normalise: str = "none",
    test: Path | str | None = None,
    triggered: Path | str | None = None,
    out: Path | str | None = None,
    force: bool = False,
    compact: bool = False,
    html: Path | str | None = None,
    anyway: bool = False,
    verdict: Verdict | None = None,
    validation: float = 0.2,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> RepairReport:
    """Repair a checkpoint with a folder of clean images. Nothing in the files is executed.

    Args:
        checkpoint: state dict of the bare net, in a ``.safetensors`` file or one of ``torch.save``.
        net: a registered net, ``package.module:Class``, or ``auto``.
        data: folder of clean ``<class>/<image>``; classes in alphabetical order are the net's outputs.
        defense: name of a registered defense, or one with its settings.
        settings: hyper-parameters of a defense given by name, ``key=value``.
        net_settings: likewise of the net.
        size: side of the images in pixels; None takes that of the first one.
        normalise: what the net was trained with: none (pixels in [0, 1]), measured (from the images), cifar10, imagenet, or six
            numbers, mean and std of R, G and B.
        test: folder of further clean images of the same classes, for an independent accuracy.
        triggered: folder of images that carry the trigger, in folders named after their true classes or all in one.
        out: folder for ``repaired.safetensors``, ``repaired.pt``, ``report.json`` and ``neurons.csv``; None writes nothing.
        force: overwrite what ``out`` holds.
        compact: also write ``compact.pt2``, in which pruned channels are really removed; needs ``out``.
        html: page to write that explains the repair; needs the extra ``report``.
        anyway: go on although the net is hardly right on the images.
        verdict: what a detector said of this net; the perturbation that it found, if it did, is tried before and after.
        validation: share of the images kept for the blind choice of the stopping point.
        recipe: augmentation and precision.
        seed: of the defense's random stream.
        device: auto, cpu, cuda or cuda:N.
        progress: told (what runs, steps done, steps in all) at every step.

    Raises:
        UserError: what is wrong, and how to put it right; before the repair.
        MethodError: the defense failed.
    """
    checkpoint, data = Path(checkpoint), Path(data)
    test, triggered, out = (None if place is None else Path(place) for place in (test, triggered, out))
    recipe = recipe or Recipe()
    say: Progress = progress or (lambda what, done, total: None)
    method = defense_of(defense, settings)
    names = check_place(checkpoint, out, force, compact=compact)
    if html is not None:
        files.check_page(Path(html))
    if compact:
        if out is None:
            raise UserError("compact writes a file; give a folder to write to (out)")
        small.check_available()
    carriers = None if triggered is None else list_triggered(triggered, class_names(data))
    if test is not None:
        files.check_images(test, class_names(data))
    own = files.load(
        checkpoint=checkpoint, net=net, net_settings=net_settings, data=data, size=size, normalise=normalise, device=device,
        crop=recipe.crop, validation=validation, seed=seed, say=say,
    )  # fmt: skip
    if reason := method.refusal(own.model, len(own.classes)):
        raise UserError(f"defense '{method.name}' cannot treat the net '{own.net}': {reason}")
    if compact:
        small.check_net(own.model)
    if not anyway and (reason := files.fed_wrongly(own)):
        raise UserError(f"{reason}. Nothing was repaired; --anyway goes on")
    side, place = own.images.x.shape[-1], own.images.x.device
    further = None if test is None else files.load_images(test, own.classes, side).to(place)
    say(f"repairing with {method.name}", 0, 0)
    with warnings.catch_warnings():
        for said_by_the_report in ("the repair did damage", ".*, as the recipe augments them, "):
            warnings.filterwarnings("ignore", said_by_the_report)
        result = purify(
            own.model, own.images.x, own.images.y, defense=method, validation=validation, recipe=recipe, seed=seed,
            progress=progress,
        )  # fmt: skip
    if out is not None:  # at once: what comes now may fail, and the repair took minutes
        say("writing the repaired weights", 0, 0)
        out = _write_weights(result.model, out)
    say("measuring the repaired net", 0, 0)
    held = own.images[validation_part(own.images.y, validation)]
    measured: dict[str, Any] = {"validation": _before_after(own.model, result.model, held)}
    measured["validation"]["note"] = (
        "this part also chose the stopping point" if method.chooses else "this part was worked on, too"
    )
    if further is not None:
        measured["test"] = _before_after(own.model, result.model, further)
    facts: dict[str, Any] = {
        "defense": to_plain(method),
        **own.facts,
        "classes": list(own.classes),
        "normalisation": None if own.mean is None else {"mean": own.mean, "std": own.std},
        "seed": seed,
        "clean accuracy": measured,
        "verdict": result.report.get("verdict"),
        "repair": dict(result.report),
    }
    if carriers is not None:
        facts["triggered"] = trigger_rates(carriers, own.model, result.model, side, own.classes, place)
    if verdict is not None and verdict.perturbation is not None:
        tried = sent(verdict.perturbation, own.images, own.model, result.model, verdict.suspected)
        shares = {"before": tried.before, "after": tried.after}
        facts["perturbation"] = {"class": own.classes[tried.target], "images": tried.images, "sent there": shares}
    say("explaining what was pruned", 0, 0)
    table = neuron_table(own.model, result.model, own.images, result.details)
    facts["pruned by layer"] = pruned_layers(table)
    if out is not None:
        write_atomic(out / NEURONS, table.to_csv(index=False, float_format="%.6g").encode())
        _write_report(facts, out)
        if compact:
            say("removing the pruned channels", 0, 0)
            facts["compact"] = _compact(result.model, own.images, out)
            _write_report(facts, out)
    if html is not None:
        say("writing the page", 0, 0)
        _write_page(Path(html), facts, checkpoint.name, own, result, verdict)
    return RepairReport(model=result.model, purified=result, facts=facts, out=out, written=names if out is not None else ())


def defense_of(defense: str | Defense, settings: Sequence[str]) -> Defense:
    """The defense of this name with ``settings``, or as it was given.

    Raises:
        UserError: it is unknown, or needs the training set, which a checkpoint does not come with.
    """
    method = component(defenses, defense, settings) if isinstance(defense, str) else defense
    if isinstance(method, TrainingSetDefense):
        raise UserError(training_set_wanted(method.name))
    return method


def check_place(checkpoint: Path, out: Path | None, force: bool, *, compact: bool = False) -> tuple[str, ...]:
    """Names of the files that a repair writes to ``out``.

    Raises:
        UserError: they cannot be written there, or are there already and ``force`` is off.
    """
    names = (SAFETENSORS, TORCH, REPORT, NEURONS, *((COMPACT,) if compact else ()))
    if out is not None:
        needed = 3 * checkpoint.stat().st_size if checkpoint.is_file() else 0
        files.check_out(out, names, force, needed)
    return names


def _before_after(before: nn.Module, after: nn.Module, images: Images) -> dict[str, Any]:
    return {"images": len(images), "before": accuracy(before, images), "after": accuracy(after, images)}


def _write_weights(model: nn.Module, out: Path) -> Path:
    """Write to ``out``, or, where that fails now, to a temporary folder; gives the folder."""
    plain = plain_weights(model.state_dict())
    content = save(plain)
    try:
        write_atomic(out / SAFETENSORS, content)
        write_torch(out / TORCH, plain)
        return out
    except OSError as error:
        reason = error.strerror or str(error)
    try:
        other = Path(tempfile.mkdtemp(prefix="repaired-"))
        write_atomic(other / SAFETENSORS, content)
        write_torch(other / TORCH, plain)
        return other
    except OSError as error:
        raise UserError(
            f"the repaired net could be written neither to {out} ({reason}) nor to {tempfile.gettempdir()} "
            f"({error.strerror or error}); make room and repair again"
        ) from None


def _write_report(facts: Mapping[str, Any], out: Path) -> None:
    write_atomic(out / REPORT, (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode())


def _write_page(
    html: Path, facts: Mapping[str, Any], title: str, own: files.OwnModel, result: Purified, verdict: Verdict | None
) -> None:
    from mnp_plugin.report.page.model import repair_data
    from mnp_plugin.report.page.render import render

    few = len(own.classes) <= MOST_CLASSES
    matrices = [
        confusion(own.images.y, logits(net, own.images.x).argmax(1), len(own.classes)) if few else []
        for net in (own.model, result.model)
    ]
    measures = neuron_measures(looked_at(own.model, own.images), result.model, own.images)
    details = Details(id="", classes=list(own.classes), clean_before=matrices[0], clean=matrices[1], **measures)
    delta = result.perturbation if verdict is None or verdict.perturbation is None else verdict.perturbation
    picture = None if delta is None else perturbed(own.images, delta)
    write_atomic(html, render(repair_data(facts, title, details, picture)).encode())


def _compact(model: nn.Module, images: Images, out: Path) -> dict[str, Any]:
    x = images[:64].pixels()
    made = small.compact(model, x)
    content, difference = small.export(made.model, x)
    write_atomic(out / COMPACT, content)
    return {
        "removed": made.removed,
        "silent channels that stay": made.kept,
        "parameters": {"before": made.parameters[0], "after": made.parameters[1]},
        "largest difference of logits": max(made.difference, difference),
        "speed": round(made.speed, 2),
        "measured on": f"{len(x)} images, {x.device.type}",
    }

"""For people with one model: repair it, or judge it, in one call."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from mnp_plugin.api.given import Array, bare, checked, hooks_of, images_of, questioned
from mnp_plugin.api.sanity import complaint, hardly_right, on_augmentation
from mnp_plugin.contracts import (
    Component,
    DefenderView,
    Defense,
    DefenseContext,
    Detector,
    Images,
    Purified,
    Recipe,
    SampleDetector,
    Screened,
    TrainingSetDefense,
    Verdict,
    defenses,
    detectors,
    sample_detectors,
)
from mnp_plugin.core import params as spec
from mnp_plugin.core.defense import training_set_wanted
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.registry import Registry
from mnp_plugin.core.streams import callers_state_kept, seed_torch
from mnp_plugin.data.split import validation_part
from mnp_plugin.evaluation.predict import accuracy
from mnp_plugin.training.device import in_default_layout

K = TypeVar("K", bound=Component)
Progress = Callable[[str, int, int], None]
"""Told now and then: what runs, steps done, steps in all (0 where unknown)."""

DAMAGE = 0.1
"""A repair that costs more than this much of the accuracy on the clean images is said to have done damage."""


def purify(
    model: nn.Module,
    x: Array,
    y: Array,
    *,
    defense: str | Defense = "mnp",
    settings: Mapping[str, Any] | None = None,
    validation: float = 0.2,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Purified:
    """Repair a copy of ``model`` with a few clean images.

    The model (weights, modes, gradients, hooks), the global random streams, the default dtype and the grad mode stay as they
    were; ``DataParallel`` and ``torch.compile`` are unwrapped. Hooks on its forward pass may be part of what it computes: the
    copies and the repaired net have them, and a warning names them. Backward hooks are not copied.

    Args:
        model: float32 net; takes [N, C, H, W] in [0, 1] (normalisation inside, see :func:`mnp_plugin.with_normalisation`) and
            gives logits [N, K], in train mode, too.
        x: clean images, tensor or NumPy array, uint8 [N, C, H, W], or float in [0, 1]; a few of every class.
        y: their labels, int64 [N].
        defense: name of a registered defense, or one with its settings.
        settings: hyper-parameters of a defense given by name, where they differ from the defaults.
        validation: share of the images kept for the blind choice of the stopping point.
        recipe: augmentation and precision; flip and crop as for natural photographs by default. Images that must not be mirrored
            or moved so far are warned of.
        seed: of the defense's random stream.
        progress: told how far the repair is.

    Returns:
        The repaired net (``.model``, same ``state_dict`` keys) and what was done (``.report``), with the accuracy on the
        clean images before and after under ``clean_accuracy``. Where it holds, the report says under ``missing_classes`` which
        classes had no image, under ``augmentation`` that the model does not know the images as the recipe augments them, under
        ``damage`` that accuracy fell by more than a tenth (all three are warned of, too), and under ``hardly_right`` that the
        net was hardly right on the images before.

    Raises:
        UserError: images or labels that do not fit the model, an unknown defense, settings out of range.
        MethodError: the defense failed.
    """
    method = _method(defenses, defense, settings)
    if not isinstance(method, Defense):
        raise UserError(f"{type(method).__name__} is no defense; give the name of one, such as 'mnp'")
    if isinstance(method, TrainingSetDefense):
        raise UserError(training_set_wanted(method.name))
    _warn_of_hooks(model)
    with _begun(model, x, y, validation, recipe, seed, f"defense '{method.name}'", progress) as work:
        result = method.run(work.view, work.tools)
        in_default_layout(result.model)
        after = accuracy(result.model, work.images)
    before, classes = work.accuracy, work.view.num_classes
    extra: dict[str, Any] = {"clean_accuracy": {"before": round(before, 4), "after": round(after, 4)}, **work.said}
    if missing := work.missing:
        extra["missing_classes"] = missing
        warnings.warn(
            f"{len(missing)} of {classes} classes have no clean image; the repair may have broken these, unseen", stacklevel=2
        )
    if hardly_right(before, classes):
        extra["hardly_right"] = complaint(before, classes)
    elif before - after > DAMAGE:
        extra["damage"] = f"accuracy on the clean images fell from {100 * before:.1f} to {100 * after:.1f} %"
        warnings.warn(f"the repair did damage: {extra['damage']}", stacklevel=2)
    return replace(result, report={**result.report, **extra})


def detect(
    model: nn.Module,
    x: Array,
    y: Array,
    *,
    detector: str | Detector = "mnp",
    settings: Mapping[str, Any] | None = None,
    validation: float = 0.2,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Verdict:
    """Judge from a few clean images whether ``model`` is backdoored.

    The model and the global random streams stay as they were.

    Args:
        model: as for :func:`purify`.
        x: clean images, tensor or NumPy array, uint8 [N, C, H, W], or float in [0, 1]; a few of every class.
        y: their labels, int64 [N].
        detector: name of a registered detector, or one with its settings.
        settings: hyper-parameters of a detector given by name, where they differ from the defaults.
        validation: share of the images kept for choices that the detector makes.
        recipe: augmentation and precision; flip and crop as for natural photographs by default. Images that must not be mirrored
            or moved so far are warned of.
        seed: of the detector's random stream.
        progress: told how far the work is.

    Returns:
        Score, evidence per class, suspected target, decision (``.backdoored``) and what that was calibrated on. A net that is
        hardly right on the images is not decided on (``.backdoored`` is None) unless the threshold is the caller's own, and
        the report says why under ``undecided``.

    Raises:
        UserError: images or labels that do not fit the model, an unknown detector, settings out of range.
        MethodError: the detector failed.
    """
    method = _method(detectors, detector, settings)
    if not isinstance(method, Detector):
        raise UserError(f"{type(method).__name__} is no detector; give the name of one, such as 'mnp'")
    _warn_of_hooks(model)
    with _begun(model, x, y, validation, recipe, seed, f"detector '{method.name}'", progress) as work:
        verdict = method.run(work.view, work.tools)
    extra: dict[str, Any] = {"clean_accuracy": round(work.accuracy, 4), **work.said}
    if missing := work.missing:
        extra["missing_classes"] = missing
    if hardly_right(work.accuracy, work.view.num_classes):
        extra["undecided"] = complaint(work.accuracy, work.view.num_classes)
        if not _own_threshold(method):
            said = f"no threshold holds: {extra['undecided']}"
            verdict = replace(verdict, threshold=None, calibration=f"{said}; {verdict.calibration}")
    return replace(verdict, report={**verdict.report, **extra})


def screen(
    model: nn.Module,
    x: Array,
    y: Array,
    images: Array,
    labels: Array | None = None,
    *,
    detector: str | SampleDetector = "strip",
    settings: Mapping[str, Any] | None = None,
    validation: float = 0.2,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Screened:
    """Score single images by how triggered they look to ``model``, or how poisoned, if it was trained on them.

    The model and the global random streams stay as they were.

    Args:
        model: as for :func:`purify`.
        x: clean images, as for :func:`purify`.
        y: their labels.
        images: those in question, of the type and shape of ``x``.
        labels: their labels, int64 [N]; only detectors of training sets need and take them.
        detector: name of a registered sample detector, or one with its settings.
        settings: hyper-parameters of a detector given by name, where they differ from the defaults.
        validation: share of the clean images kept for choices that the detector makes.
        recipe: augmentation and precision; flip and crop as for natural photographs by default. Images that must not be mirrored
            or moved so far are warned of.
        seed: of the detector's random stream.
        progress: told how far the work is.

    Returns:
        A score and a flag for each image.

    Raises:
        UserError: images or labels that do not fit the model, an unknown detector, settings out of range.
        MethodError: the detector failed.
    """
    method = _method(sample_detectors, detector, settings)
    if not isinstance(method, SampleDetector):
        raise UserError(f"{type(method).__name__} is no detector of single images; give the name of one, such as 'strip'")
    if method.questions == "training set" and labels is None:
        raise UserError(f"detector '{method.name}' judges a training set; give the labels of its images, too")
    _warn_of_hooks(model)
    with _begun(model, x, y, validation, recipe, seed, f"detector '{method.name}'", progress) as work:
        asked = questioned(images, labels, work.images, work.view.num_classes)
        return method.run(work.view, asked, work.tools)


def _own_threshold(method: Detector) -> bool:
    """Whether the caller has set a threshold, which then holds whatever the net is like."""
    usual = {one.name: one.default for one in dataclasses.fields(method)}
    return "threshold" in usual and getattr(method, "threshold", None) not in (None, usual["threshold"])


def _method(registry: Registry[K], given: str | K, settings: Mapping[str, Any] | None) -> K:
    if not isinstance(given, str):
        if settings:
            raise UserError(f"this {registry.kind} has its settings already; leave 'settings' out, or give its name")
        return given
    if settings is not None and not isinstance(settings, Mapping):
        raise UserError(f"settings must be a mapping, such as {{'lr': 0.01}}, not {type(settings).__name__}")
    return spec.build(registry.get(given), spec.Document(dict(settings or {}), {}, f"settings of '{given}'"), ())


@dataclass(frozen=True, eq=False)
class _Work:
    """A checked net with its images, as a method takes them, and how right it is on them."""

    images: Images
    view: DefenderView
    tools: DefenseContext
    accuracy: float
    said: dict[str, str]
    """What the report says of what was given."""

    @property
    def missing(self) -> list[int]:
        """Classes without an image."""
        return sorted(set(range(self.view.num_classes)) - set(self.images.y.tolist()))


@contextmanager
def _begun(
    model: nn.Module,
    x: Array,
    y: Array,
    validation: float,
    recipe: Recipe | None,
    seed: int,
    who: str,
    progress: Progress | None,
) -> Iterator[_Work]:
    """Check what was given; inside the block the global streams are seeded, after it the caller's state is as it was."""
    net, images, recipe = bare(model), images_of(x, y), recipe or Recipe()
    device = next(net.parameters()).device
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise UserError(f"seed must be a whole number from 0 to 2^63 - 1, not {seed!r}")
    with callers_state_kept(device, seed):
        own, images, classes = checked(net, images, validation, recipe)
        part = validation_part(images.y, validation)
        right = accuracy(own, images)
        if advice := on_augmentation(own, images, recipe, right):
            warnings.warn(advice, stacklevel=4)
        seed_torch(device, seed)
        view = DefenderView(model=own, clean=images[~part], validation=images[part], num_classes=classes)
        tools = DefenseContext(
            device=device,
            generator=torch.Generator(device=device).manual_seed(seed),
            recipe=recipe,
            fresh_net=lambda: _no_fresh_net(who),
            busy=progress or (lambda what, done, total: None),
        )
        yield _Work(images, view, tools, right, {"augmentation": advice} if advice else {})


def _warn_of_hooks(model: object) -> None:
    """Name the hooks that are called with our images: whether one observes or computes, nobody can tell without calling it."""
    if hooks := hooks_of(bare(model)):
        warnings.warn(
            f"the model has hooks on its forward pass: {', '.join(hooks)}. They may be part of what it computes, so copies of it "
            "and what comes back have them, and they are called many times with other images than yours. If one only observes, "
            "remove it first (handle.remove()) and register it again afterwards",
            stacklevel=3,
        )


def _no_fresh_net(who: str) -> nn.Module:
    raise UserError(f"{who} trains a fresh net, which cannot be built here; run it through a suite instead")

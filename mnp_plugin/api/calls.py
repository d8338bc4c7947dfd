"""For people with one model: repair it, or judge it, in one call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mnp_plugin.contracts import (
    Component,
    DefenderView,
    Defense,
    Detector,
    Images,
    ModelDetector,
    Purified,
    Recipe,
    Tools,
    Verdict,
    defenses,
    detectors,
    to_bytes,
)
from mnp_plugin.core import params as spec
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.registry import Registry
from mnp_plugin.core.streams import callers_state_kept
from mnp_plugin.data.split import validation_part
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.training.device import in_default_layout, place

K = TypeVar("K", bound=Component)
Array = Tensor | npt.NDArray[Any]
Progress = Callable[[str, int, int], None]
"""Told now and then: what runs, steps done, steps in all (0 where unknown)."""

__all__ = ["Purified", "Verdict", "detect", "purify"]

DAMAGE = 0.1
"""A repair that changes more than this share of the predictions on the clean images is said to have done damage."""


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

    The model (weights, modes, gradients, hooks) and the global random streams stay as they were.

    Args:
        model: takes float32 [N, C, H, W] in [0, 1] (normalisation inside, see :func:`mnp_plugin.with_normalisation`) and
            gives logits [N, K].
        x: clean images, uint8 [N, C, H, W], or float in [0, 1]; a few of every class.
        y: their labels, int64 [N].
        defense: name of a registered defense, or one with its settings.
        settings: hyper-parameters of a defense given by name, where they differ from the defaults.
        validation: share of the images kept for the blind choice of the stopping point.
        recipe: augmentation and precision; flip and crop as for natural photographs by default.
        seed: of the defense's random stream.
        progress: told how far the repair is.

    Returns:
        The repaired net (``.model``, same ``state_dict`` keys) and what was done (``.report``). The report names classes
        without an image under ``missing_classes``, and says under ``damage`` when more than a tenth of the predictions on
        the clean images changed.

    Raises:
        UserError: images or labels that do not fit the model, an unknown defense, settings out of range.
        MethodError: the defense failed.
    """
    method = _method(defenses, defense, settings)
    if not isinstance(method, Defense):
        raise UserError(f"{type(method).__name__} is no defense; give the name of one, such as 'mnp'")
    own, images = _checked(model, x, y, validation, recipe)
    with callers_state_kept(images.x.device, _seed(seed)):
        view, tools = _prepared(own, images, validation, recipe, seed, f"defense '{method.name}'", progress)
        result = method.run(view, tools)
        in_default_layout(result.model)
        before, after = logits(own, images.x).argmax(1), logits(result.model, images.x).argmax(1)
    extra: dict[str, Any] = {}
    if missing := sorted(set(range(view.num_classes)) - set(images.y.tolist())):
        extra["missing_classes"] = missing
    if (changed := float((before != after).float().mean())) > DAMAGE:
        extra["damage"] = f"{100 * changed:.0f} % of the predictions on the clean images changed; the repair cost too much"
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
        x: clean images, uint8 [N, C, H, W], or float in [0, 1]; a few of every class.
        y: their labels, int64 [N].
        detector: name of a registered detector of whole nets, or one with its settings.
        settings: hyper-parameters of a detector given by name, where they differ from the defaults.
        validation: share of the images kept for choices that the detector makes.
        recipe: augmentation and precision; flip and crop as for natural photographs by default.
        seed: of the detector's random stream.
        progress: told how far the work is.

    Returns:
        Score, evidence per class, suspected target, decision (``.backdoored``) and what that was calibrated on.

    Raises:
        UserError: images or labels that do not fit the model, an unknown detector or one of single images, settings out of
            range.
        MethodError: the detector failed.
    """
    method = _method(detectors, detector, settings)
    if not isinstance(method, Detector):
        raise UserError(f"{type(method).__name__} is no detector; give the name of one, such as 'mnp'")
    if not isinstance(method, ModelDetector):
        raise UserError(f"detector '{method.name}' judges single images, not whole nets; see mnp-bench describe {method.name}")
    own, images = _checked(model, x, y, validation, recipe)
    with callers_state_kept(images.x.device, _seed(seed)):
        view, tools = _prepared(own, images, validation, recipe, seed, f"detector '{method.name}'", progress)
        return method.run(view, tools)


def _method(registry: Registry[K], given: str | K, settings: Mapping[str, Any] | None) -> K:
    if not isinstance(given, str):
        if settings:
            raise UserError(f"this {registry.kind} has its settings already; leave 'settings' out, or give its name")
        return given
    return spec.build(registry.get(given), spec.Document(dict(settings or {}), {}, f"settings of '{given}'"), ())


def _seed(seed: int) -> int:
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise UserError(f"seed must be a whole number from 0 to 2^63 - 1, not {seed!r}")
    return seed


def _checked(model: nn.Module, x: Array, y: Array, validation: float, recipe: Recipe | None) -> tuple[nn.Module, Images]:
    """A copy of the model, in eval mode and placed, and the images on its device; all that can be known to be wrong."""
    bare = _bare(model)
    pixels, labels = _tensor(x, "x"), _tensor(y, "y")
    if pixels.is_floating_point():
        if pixels.numel() and not (float(pixels.min()) >= 0 and float(pixels.max()) <= 1):  # true of NaN too
            raise UserError("float images must lie in [0, 1]; put the normalisation inside the model (with_normalisation)")
        pixels = to_bytes(pixels)
    given = Images(pixels, labels)
    if len(given) < 4:
        raise UserError(f"{len(given)} clean images are too few; give at least 4, better some of every class")
    if int(labels.min()) == int(labels.max()):
        raise UserError(f"all clean images are of class {int(labels[0])}; give some of every class, or the repair breaks the net")
    if not 0 < validation < 1:
        raise UserError(f"validation must be a share between 0 and 1, not {validation}")
    crop = (recipe or Recipe()).crop
    if crop >= min(pixels.shape[2:]):
        raise UserError(f"the recipe's crop of {crop} pixels is too large for images of {list(pixels.shape[2:])}")
    device = next(bare.parameters()).device
    images = given.to(device)
    with torch.inference_mode(False):
        own = _copy(bare)
        try:
            place(own, device, images[:2].pixels()).eval()
            out = own(images[:2].pixels())
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"images of shape {list(images.x.shape[1:])} do not fit the model: {error}") from None
        if not isinstance(out, Tensor):
            raise UserError(
                f"the model gives a {type(out).__name__}, not logits [N, K]; wrap it so that forward returns the logits"
            )
        if out.ndim != 2 or int(labels.min()) < 0 or int(labels.max()) >= out.shape[1]:
            raise UserError(
                f"labels {int(labels.min())}..{int(labels.max())} do not fit the model's output of shape {list(out.shape)}"
            )
        if not bool(torch.isfinite(logits(own, images.x)).all()):
            raise UserError("the model's outputs on the clean images are not all finite; its weights are damaged")
    return own, images


def _bare(model: object) -> nn.Module:
    """The net itself, out of the wrappings that people have around it."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    inner = getattr(model, "_orig_mod", None)  # torch.compile
    if isinstance(inner, nn.Module):
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("a TorchScript module cannot be repaired; give the nn.Module it was made from")
    if isinstance(model, Mapping):
        raise UserError("model is a state dict; build the net, load_state_dict it, and give the net")
    if not isinstance(model, nn.Module):
        raise UserError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if type(model).__module__.startswith(("torch.fx", "torch.export")):
        raise UserError("an exported program cannot be repaired; give the nn.Module it was made from")
    parameters = list(model.parameters())
    if not parameters:
        raise UserError("the model has no parameters, so there is nothing to repair")
    if odd := sorted({str(p.dtype) for p in parameters if p.dtype != torch.float32}):
        raise UserError(f"the model's weights are {', '.join(odd)}; give it in float32 (model.float())")
    return model


def _copy(model: nn.Module) -> nn.Module:
    try:
        own = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"the model cannot be copied ({str(error).splitlines()[0]}); a net that keeps its last features in an attribute must "
            "drop them first"
        ) from None
    for p in own.parameters():
        p.grad = None
    return own.requires_grad_(True)


def _tensor(value: object, name: str) -> Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        raise UserError(f"{name} must be a tensor or a NumPy array, not {type(value).__name__}")
    return value.detach()


def _prepared(
    model: nn.Module, images: Images, validation: float, recipe: Recipe | None, seed: int, who: str, progress: Progress | None
) -> tuple[DefenderView, Tools]:
    """What a method is given."""
    part = validation_part(images.y, validation)
    classes = int(logits(model, images.x[:1]).shape[1])
    view = DefenderView(model=model, clean=images[~part], validation=images[part], num_classes=classes)
    device = images.x.device
    tools = Tools(
        device=device,
        generator=torch.Generator(device=device).manual_seed(seed),
        recipe=recipe or Recipe(),
        fresh_net=lambda: _no_fresh_net(who),
        busy=progress or (lambda what, done, total: None),
    )
    return view, tools


def _no_fresh_net(who: str) -> nn.Module:
    raise UserError(f"{who} trains a fresh net, which cannot be built here; run it through a suite instead")

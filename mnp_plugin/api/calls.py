"""For people with one model: repair it, or judge it, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import (
    Component,
    DefenderView,
    Defense,
    DefenseContext,
    Detector,
    Images,
    ModelDetector,
    Purified,
    Recipe,
    Verdict,
    defenses,
    detectors,
    to_bytes,
)
from mnp_plugin.core import params as spec
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.registry import Registry
from mnp_plugin.data.split import validation_part
from mnp_plugin.evaluation.predict import logits

K = TypeVar("K", bound=Component)

__all__ = ["Purified", "Verdict", "detect", "purify"]


def purify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    defense: str | Defense = "mnp",
    settings: Mapping[str, Any] | None = None,
    validation: float = 0.2,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> Purified:
    """Repair a copy of ``model`` with a few clean images.

    Args:
        model: takes float32 [N, C, H, W] in [0, 1] (normalisation inside, see ``mnp_plugin.nets.with_normalisation``) and
            gives logits [N, K]; its weights stay as they are, and it is put in eval mode.
        x: clean images, uint8 [N, C, H, W], or float in [0, 1]; a few per class.
        y: their labels, int64 [N].
        defense: name of a registered defense, or one with its settings.
        settings: hyper-parameters of a defense given by name, where they differ from the defaults.
        validation: share of the images kept for the blind choice of the stopping point.
        recipe: augmentation and precision; flip and crop as for natural photographs by default.
        seed: of the defense's random stream, and of torch's global one.

    Returns:
        The repaired net (``.model``, same ``state_dict`` keys) and what was done (``.report``).

    Raises:
        UserError: images or labels that do not fit the model, an unknown defense, settings out of range.
    """
    method = _method(defenses, defense, settings)
    view, tools = _prepared(model, x, y, validation, recipe, seed, f"defense '{method.name}'")
    return method.run(view, tools)


def detect(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    detector: str | Detector = "mnp",
    settings: Mapping[str, Any] | None = None,
    validation: float = 0.2,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> Verdict:
    """Judge from a few clean images whether ``model`` is backdoored.

    Args:
        model: as for :func:`purify`; its weights stay as they are, and it is put in eval mode.
        x: clean images, uint8 [N, C, H, W], or float in [0, 1]; a few per class.
        y: their labels, int64 [N].
        detector: name of a registered detector of whole nets, or one with its settings.
        settings: hyper-parameters of a detector given by name, where they differ from the defaults.
        validation: share of the images kept for choices that the detector makes.
        recipe: augmentation and precision; flip and crop as for natural photographs by default.
        seed: of the detector's random stream, and of torch's global one.

    Returns:
        Score, evidence per class, suspected target, decision (``.backdoored``) and what that was calibrated on.

    Raises:
        UserError: images or labels that do not fit the model, an unknown detector or one of single images, settings out of
            range.
    """
    method = _method(detectors, detector, settings)
    if not isinstance(method, ModelDetector):
        raise UserError(f"detector '{method.name}' judges single images, not whole nets; see mnp-bench describe {method.name}")
    view, tools = _prepared(model, x, y, validation, recipe, seed, f"detector '{method.name}'")
    return method.run(view, tools)


def _method(registry: Registry[K], given: str | K, settings: Mapping[str, Any] | None) -> K:
    if not isinstance(given, str):
        if settings:
            raise UserError(f"this {registry.kind} has its settings already; leave 'settings' out, or give its name")
        return given
    return spec.build(registry.get(given), spec.Document(dict(settings or {}), {}, f"settings of '{given}'"), ())


def _prepared(
    model: nn.Module, x: Tensor, y: Tensor, validation: float, recipe: Recipe | None, seed: int, who: str
) -> tuple[DefenderView, DefenseContext]:
    """What a method is given, from images and labels that were checked against the model."""
    if x.is_floating_point():
        if x.numel() and not (float(x.min()) >= 0 and float(x.max()) <= 1):  # true of NaN too
            raise UserError("float images must lie in [0, 1]; put the normalisation inside the model (nets.with_normalisation)")
        x = to_bytes(x)
    device = next(model.parameters()).device
    images = Images(x.to(device), y.to(device))
    if len(images) < 4:
        raise UserError(f"{len(images)} clean images are too few; give at least 4, better some of every class")
    recipe = recipe or Recipe()
    if recipe.crop >= min(images.x.shape[2:]):
        raise UserError(f"the recipe's crop of {recipe.crop} pixels is too large for images of {list(images.x.shape[2:])}")
    try:
        out = logits(model, images.x[:2])
    except (RuntimeError, ValueError) as error:
        raise UserError(f"images of shape {list(images.x.shape[1:])} do not fit the model: {error}") from None
    if out.ndim != 2 or int(y.min()) < 0 or int(y.max()) >= out.shape[1]:
        raise UserError(f"labels {int(y.min())}..{int(y.max())} do not fit the model's output of shape {list(out.shape)}")
    if not 0 < validation < 1:
        raise UserError(f"validation must be a share between 0 and 1, not {validation}")
    torch.manual_seed(seed)
    part = validation_part(images.y, validation)
    view = DefenderView(model=model, clean=images[~part], validation=images[part], num_classes=int(out.shape[1]))
    tools = DefenseContext(
        device=device,
        generator=torch.Generator(device=device).manual_seed(seed),
        recipe=recipe,
        fresh_net=lambda: _no_fresh_net(who),
    )
    return view, tools


def _no_fresh_net(who: str) -> nn.Module:
    raise UserError(f"{who} trains a fresh net, which cannot be built here; run it through a suite instead")

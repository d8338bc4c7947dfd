"""The net that a checkpoint belongs to: by its registered name, by its class, or found from the weights alone."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnp_plugin.api.settings import built, component, parse_settings
from mnp_plugin.core.errors import UserError, did_you_mean
from mnp_plugin.core.net import Net
from mnp_plugin.core.registries import nets
from mnp_plugin.io.weights import without_prefix
from mnp_plugin.nets.torchvision_nets import made

AUTO = "auto"

Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class ResolvedNet:
    """An untrained net on the CPU, and how to ask for it again.

    Args:
        name: what ``--net`` takes: a registered name, or ``package.module:Class``.
        settings: what ``--net-settings`` takes, ``key=value`` words.
        model: maps float32 [N, C, H, W], already normalised, to logits [N, classes].
    """

    name: str
    settings: tuple[str, ...]
    model: nn.Module


def resolve_net(name: str, settings: Sequence[str], weights: Mapping[str, Tensor], num_classes: int, shape: Shape) -> ResolvedNet:
    """The net that ``name`` means, untrained. The weights are looked at, not loaded.

    Args:
        name: a registered net; ``package.module:Class``, found from the current folder too; or ``auto``: the one net whose
            state dict has the keys and shapes of the weights, among the registered ones and torchvision's.
        settings: ``key=value`` words for the net; none with ``auto``.
        weights: the checkpoint's state dict.
        num_classes: number of classes of the data.
        shape: (C, H, W) of an image.

    Raises:
        UserError: no such net, a class that cannot be built, weights that no net fits (the message names the nearest), or
            weights that fit another net than the one named.
    """
    if name == AUTO:
        if settings:
            raise UserError(f"--net auto finds the settings too; name a net for {' '.join(settings)}")
        return _found(weights, num_classes, shape)
    if ":" in name:
        return ResolvedNet(name, tuple(settings), _from_class(name, settings, num_classes, shape))
    net = component(nets, name, settings)
    model = net.build(num_classes, shape)
    if _differences(model, weights) and told_apart(weights) in (None, num_classes):  # else none fits, found after seconds
        fitting = next((c for c in _candidates(weights, num_classes, shape) if not _differences(c.model, weights)), None)
        if fitting is not None:
            raise UserError(f"these weights are not of the net '{name}'; they fit {_asked(fitting)}")
    return ResolvedNet(name, tuple(settings), model)


def told_apart(weights: Mapping[str, Tensor]) -> int | None:
    """Rows of the last matrix of weights, mostly a classifier's last layer; None if there is no matrix."""
    matrices = [value for key, value in weights.items() if key.endswith("weight") and value.ndim == 2]
    return len(matrices[-1]) if matrices else None


def _found(weights: Mapping[str, Tensor], num_classes: int, shape: Shape) -> ResolvedNet:
    """The net that the weights fit."""
    nearest: ResolvedNet | None = None
    fewest: list[str] = []
    for candidate in _candidates(weights, num_classes, shape):
        faults = _differences(candidate.model, weights)
        if not faults:
            return ResolvedNet(candidate.name, candidate.settings, _real(candidate, num_classes, shape))
        if nearest is None or len(faults) < len(fewest):
            nearest, fewest = candidate, faults
    message = "no net known here fits the weights"
    if nearest is not None and len(fewest) < len(weights):  # or else it is near to nothing
        more = f" and {len(fewest) - 3} more" if len(fewest) > 3 else ""
        message += f"; the nearest is {_asked(nearest)}, but for {'; '.join(fewest[:3])}{more}"
    raise UserError(f"{message}. Data of {num_classes} classes were given. Name the net's class: --net package.module:Class")


def _real(candidate: ResolvedNet, num_classes: int, shape: Shape) -> nn.Module:
    return component(nets, candidate.name, candidate.settings).build(num_classes, shape)


def _asked(net: ResolvedNet) -> str:
    return f"--net {net.name}" + (f" --net-settings {' '.join(net.settings)}" if net.settings else "")


def _candidates(weights: Mapping[str, Tensor], num_classes: int, shape: Shape) -> Iterator[ResolvedNet]:
    """Nets that the weights may fit, without storage: every registered one, in the width of the weights, then torchvision's."""
    for name in nets.names():
        try:
            cls = nets.get(name)
        except UserError:  # a broken plugin
            continue
        model = _outline(cls(), num_classes, shape)
        if model is None:
            continue
        yield ResolvedNet(name, (), model)
        width = _width(cls, model, weights)
        if width is not None and (model := _outline(cls(width=width), num_classes, shape)) is not None:  # type: ignore[call-arg]
            yield ResolvedNet(name, (f"width={width}",), model)
    from torchvision import models  # here: importing torchvision takes seconds

    for arch in models.list_models(module=models):
        model = _torchvision_outline(arch, num_classes, shape)
        if model is not None:
            yield ResolvedNet("torchvision", (f"arch={arch}",), model)


@functools.cache
def _torchvision_outline(arch: str, num_classes: int, shape: Shape) -> nn.Module | None:
    """Not tried on an image, which would take as long again: that is done once a net fits. Kept, since all of them together
    take seconds and a caller may ask about many checkpoints.
    """
    return _meta(lambda: made(arch, num_classes, shape))


def _outline(net: Net, num_classes: int, shape: Shape) -> nn.Module | None:
    """The net with names and shapes but no storage; None if it takes no such images or needs numbers to be built."""
    return _meta(lambda: net.build(num_classes, shape))


def _meta(make: Callable[[], nn.Module]) -> nn.Module | None:
    try:
        with torch.device("meta"):
            return make()
    except Exception:  # a stranger's code or torchvision's; whatever it raises, this net is not the one
        return None


def _width(cls: type[Net], model: nn.Module, weights: Mapping[str, Tensor]) -> int | None:
    """The setting ``width`` that gives the first layer as many channels as the weights have; None if there is none."""
    setting = next((f for f in fields(cls) if f.name == "width"), None)
    default = None if setting is None else setting.default
    key, own = next(iter(model.state_dict().items()), ("", None))
    weights = without_prefix(model.state_dict(), weights)
    if setting is None or not isinstance(default, int) or own is None or key not in weights:
        return None
    if not own.ndim or not weights[key].ndim:
        return None
    channels = default * weights[key].shape[0]
    width = channels // int(own.shape[0])
    low, high = setting.metadata.get("low"), setting.metadata.get("high")
    if (
        channels % int(own.shape[0])
        or width == default
        or (low is not None and width < low)
        or (high is not None and width > high)
    ):
        return None
    return width


def _differences(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """What keeps the weights from fitting; empty if they fit. Counters of batches, which old checkpoints lack, do not count."""
    own = {key: value.shape for key, value in model.state_dict().items()}
    given = {key: value.shape for key, value in without_prefix(own, weights).items()}
    faults = [
        f"{key} {list(given[key])} instead of {list(shape)}" for key, shape in own.items() if given.get(key, shape) != shape
    ]
    for what, one, other in (("missing", own, given), ("unexpected", given, own)):
        faults += [f"{what} {key}" for key in one if key not in other and not key.endswith("num_batches_tracked")]
    return faults


def _from_class(name: str, settings: Sequence[str], num_classes: int, shape: Shape) -> nn.Module:
    """A net of the user's own code: a class or function that gives an ``nn.Module``, or a :class:`Net`."""
    make = _imported(name)
    source = f"settings of net '{name}'"
    if inspect.isclass(make) and issubclass(make, Net):
        return built(make, settings, source).build(num_classes, shape)
    values = parse_settings(settings, source)
    arguments = _arguments(make, name, values, num_classes)
    try:
        model = make(**arguments)
    except Exception as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise UserError(f"{name}({shown}) failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(
            f"{name} gives a {type(model).__name__}, no torch.nn.Module; name a class of a net, or a function that builds one"
        )
    return model


def _imported(name: str) -> Any:
    module, _, path = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *path.split(".")]):
        raise UserError(f"--net '{name}' is no package.module:Class")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)  # last, so that it hides nothing that is installed
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise UserError(f"--net {name}: cannot import '{module}' ({type(error).__name__}: {error})") from error
    finally:
        if added:
            sys.path.remove(here)
    for part in path.split("."):
        if not hasattr(found, part):
            public = [key for key in vars(found) if not key.startswith("_")] if hasattr(found, "__dict__") else []
            raise UserError(f"--net {name}: '{module}' has no '{part}'.{did_you_mean(part, public)}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"--net {name} is a {type(found).__name__}; name a class of a net, or a function that builds one")
    return found


def _arguments(make: Any, name: str, values: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """The settings, and ``num_classes`` where the class takes it and the settings do not say it."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return {**values}
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in values:
        if key not in named and not anything:
            raise UserError(f"--net {name} takes no '{key}'.{did_you_mean(key, named)}")
    if "num_classes" in named or anything:
        values = {"num_classes": num_classes, **values}
    needed = [p.name for p in parameters if p.default is p.empty and p.name not in values and p.kind is not p.VAR_KEYWORD]
    needed = [key for key in needed if key in named]
    if needed:
        example = " ".join(f"{key}=VALUE" for key in needed)
        raise UserError(f"--net {name} needs {', '.join(needed)}; give --net-settings {example}")
    return values

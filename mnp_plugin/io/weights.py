"""State dicts: found in what a checkpoint holds, renamed to what the net calls its tensors, and loaded only if all of it fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnp_plugin.core.errors import UserError
from mnp_plugin.io.file_kinds import SAVE, whole_model
from mnp_plugin.io.pickle_values import Inert, Token
from mnp_plugin.io.refusal import RefusedError, need, shown

WRAPPINGS = ("state_dict", "model", "net", "model_state_dict", "weights", "params")
"""Keys under which checkpoints keep their state dict."""
COMPILED = "_orig_mod."
"""What torch.compile puts before the names of a net's tensors."""
MAX_PREFIXES = 3
"""Parts of names that all tensors share and a net has not, as DataParallel (``module.``) and Lightning (``model.``) put them."""


def find_state_dict(found: Any) -> dict[str, Any]:
    """The state dict in a checkpoint whose tensors may still be tokens; what stands beside it is not looked at.

    Raises:
        RefusedError: there is none; says what is there instead.
    """
    for _ in range(3):
        if isinstance(found, Inert):
            raise RefusedError(whole_model(shown(found.path)))
        if not isinstance(found, dict) or (found and all(_is_tensor(value) for value in found.values())):
            break
        inner = next((found[key] for key in WRAPPINGS if isinstance(found.get(key), dict | Inert)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, dict):
        what = "a single tensor" if _is_tensor(found) else f"a value of type {type(found).__name__}"
        raise RefusedError(f"there is no state dict in it, but {what}; save one: {SAVE}")
    tensors = [key for key, value in found.items() if _is_tensor(value)]
    others = [key for key, value in found.items() if not _is_tensor(value)]
    if tensors and not others and all(type(key) is str for key in tensors):
        return found
    if tensors and not others:
        odd = next(key for key in tensors if type(key) is not str)
        raise RefusedError(f"there is no state dict in it, but a dictionary whose key {shown(odd)} is no text; save one: {SAVE}")
    objects = [key for key in others if isinstance(found[key], Inert)]
    if tensors or objects:
        odd = (objects or others)[0]
        value = found[odd]
        what = f"an object of class {shown(value.path)}" if isinstance(value, Inert) else f"of type {type(value).__name__}"
        raise RefusedError(
            f"there is no state dict in it, but a dictionary whose {shown(odd)} is no dense tensor but {what}; save one: {SAVE}"
        )
    raise RefusedError(f"there is no state dict in it, but {_described(found)}; save one: {SAVE}")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, Token) and not isinstance(value, Inert))


def _described(found: dict[Any, Any]) -> str:
    if not found:
        return "an empty dictionary"
    return f"a dictionary with {listed('the keys', [shown(key).strip(chr(39)) for key in found])}"


def bare_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` without the ``module.`` of DataParallel before every name and the ``_orig_mod.`` of torch.compile within."""
    names = [key.replace(COMPILED, "") for key in tensors]
    while names and all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    need(len(set(names)) == len(names), "two of its tensors have the same name but for 'module.' or '_orig_mod.'")
    return dict(zip(names, tensors.values(), strict=True))


def without_prefix(own: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` without the part that all their names begin with, where a net whose names are ``own`` has some only without."""
    names, found = set(own), dict(tensors)
    for _ in range(MAX_PREFIXES):
        if not found or not names.isdisjoint(found):
            return found
        prefix = next(iter(found)).partition(".")[0] + "."
        if not all(key.startswith(prefix) for key in found):
            break
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found if not names.isdisjoint(found) else dict(tensors)


def _renamed(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As :func:`without_prefix`, and with the counters of batches that old checkpoints lack."""
    found = without_prefix(own, tensors)
    for key, value in own.items():  # torch before 0.4.1 did not count batches
        if key.endswith("num_batches_tracked") and key not in found and f"{key[:-19]}running_mean" in found:
            found[key] = torch.zeros_like(value)
    return found


def weights_into(net: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Load ``tensors`` into ``net``, strictly: the same names and shapes, finite in the net's own dtype.

    A part that all names begin with (``model.``) is dropped where the net has none, and missing ``num_batches_tracked`` are 0.

    Args:
        net: changed only if everything fits.
        tensors: by name, on the CPU.
        source: where they are from, for messages.

    Raises:
        UserError: weights of another net, or values that are not finite.
    """
    own = net.state_dict()
    tensors = _renamed(own, tensors)
    shared = [(key, tensors[key], value) for key, value in own.items() if key in tensors]
    shapes = [f"{key} {list(t.shape)} instead of {list(v.shape)}" for key, t, v in shared if t.shape != v.shape]
    kinds = [f"{key} {t.dtype} instead of {v.dtype}" for key, t, v in shared if not _converts(key, t, v)]
    faults = [
        listed("missing", [key for key in own if key not in tensors]),
        listed("unexpected", [key for key in tensors if key not in own]),
        listed("of another shape", shapes),
        listed("of another kind", kinds),
    ]
    if any(faults):
        raise UserError(f"{source}: these weights are of another net: {'; '.join(f for f in faults if f)}")
    fitting = {key: tensors[key].to(value.dtype) for key, value in own.items()}
    try:
        for key, value in fitting.items():
            check_finite(key, value)
            need(not key.endswith("running_var") or bool((value >= 0).all()), f"{shown(key)} holds a negative variance")
    except RefusedError as error:
        raise UserError(f"{source}: {error}") from None
    net.load_state_dict(fitting, strict=True)


def _converts(key: str, given: Tensor, own: Tensor) -> bool:
    """Whether ``given`` may stand for ``own``; a counter of batches may have been made a float with all the rest."""
    if torch.can_cast(given.dtype, own.dtype):
        return True
    counts = key.endswith("num_batches_tracked") and given.is_floating_point()
    return counts and bool((given.isfinite() & (given == given.round())).all())


def check_finite(key: str, value: Tensor) -> None:
    """Raise :class:`RefusedError` unless every number of ``value`` is finite."""
    if value.is_floating_point() or value.is_complex():
        narrow = value.float() if value.is_floating_point() and value.dtype.itemsize < 2 else value  # float8 has no isfinite
        need(bool(torch.isfinite(narrow).all()), f"{shown(key)} holds values that are not finite (NaN or infinite)")


def listed(what: str, keys: list[str], most: int = 3) -> str:
    """``what`` and the first of ``keys``; empty if there are none."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"{what} {', '.join(shown(key)[1:-1] for key in keys[:most])}{more}" if keys else ""

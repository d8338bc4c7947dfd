"""torch on first use, for commands that only read what methods declare: importing it takes two seconds, reading a class none.

Inside :func:`torch_deferred`, ``import torch``, ``from torch import nn`` and the like in modules of this package bind stand-ins.
The first use of any of them (an attribute, a call, an ``isinstance``) imports torch and puts the real things in their places,
so that code which does need torch gets it, late and right. Python 3.15 has this in the language (PEP 810, lazy imports).

Without it, 48 modules with 331 functions would have to import torch in each function, and every author of a method here, too.
``importlib.util.LazyLoader`` does not serve: ``from torch import nn`` makes it load at once.

A module stays quick to read as long as it uses torch in functions alone: a decorator ``@torch.no_grad()`` or a base class
``nn.Module`` at its top is a use.
"""

from __future__ import annotations

import builtins
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

DEFERRED = ("torch", "safetensors.torch")
"""Modules that wait for their first use, with all below them."""

_waiting: list[dict[str, Any]] = []
"""The namespaces that hold stand-ins."""


class StandIn:
    """Something in torch, by its dotted name, until it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(_real(self), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _real(self)(*args, **kwargs)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, _real(self))

    def __or__(self, other: Any) -> Any:
        return _real(self) | other

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_real(self),)


def _real(wanted: StandIn) -> Any:
    """What ``wanted`` stands for; from now on every module that holds a stand-in holds the real thing."""
    while _waiting:
        names = _waiting.pop()
        names.update({key: pkgutil.resolve_name(value._name) for key, value in names.items() if type(value) is StandIn})
    return pkgutil.resolve_name(wanted._name)


@contextmanager
def torch_deferred() -> Iterator[None]:
    """Have modules of this package that are imported inside the block wait with torch; nothing changes once torch is there."""
    ordinary = builtins.__import__

    def waiting(
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - as the built-in function calls them
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        ours = isinstance(globals, dict) and str(globals.get("__name__")).startswith("mnp_plugin.")
        if level or not ours or "torch" in sys.modules or not any(f"{name}.".startswith(f"{top}.") for top in DEFERRED):
            return ordinary(name, globals, locals, fromlist, level)
        assert isinstance(globals, dict)
        _waiting.append(globals)
        if fromlist:
            return SimpleNamespace(**{item: StandIn(f"{name}.{item}") for item in fromlist})
        return _package(name)

    builtins.__import__ = waiting
    try:
        yield
    finally:
        builtins.__import__ = ordinary


def _package(name: str) -> StandIn:
    """What ``import a.b.c`` binds, a; ``import a.b.c as d`` then asks it for b and that for c."""
    top, *below = name.split(".")
    package = here = StandIn(top)
    for part in below:
        child = StandIn(f"{here._name}.{part}")
        setattr(here, part, child)
        here = child
    return package

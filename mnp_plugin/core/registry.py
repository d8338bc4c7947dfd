"""Registries of named classes, filled by decorators here and by entry points of third parties.

A third party ships a module that registers its classes on import and names that module in one entry point of the group
``mnp_plugin``. The style follows pluggy: check at registration, quote the culprit, list a broken plugin, never die of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

from mnp_plugin.core.errors import UserError, did_you_mean

GROUP = "mnp_plugin"
BUILTIN_PACKAGES = ("data", "nets", "attacks", "defenses", "detectors", "integrations.backdoorbench")

T = TypeVar("T")
C = TypeVar("C", bound=type)


class RegistryError(TypeError):
    """A class that cannot be registered; the message quotes it and says what to change."""


def where_defined(cls: type) -> str:
    """``module.Class (file)``, for messages that must name the culprit."""
    try:
        file = inspect.getsourcefile(cls) or "unknown file"
    except TypeError:
        file = "defined interactively"
    return f"{cls.__module__}.{cls.__qualname__} ({file})"


def _distribution_of(cls: type) -> str | None:
    return "mnp_plugin" if cls.__module__.startswith("mnp_plugin.") else None


class Registry(Generic[T]):
    """Named subclasses of one base class.

    Args:
        kind: singular noun for messages, such as ``"attack"``.
        base: abstract base class that every entry must extend.
    """

    all: ClassVar[list[Registry[Any]]] = []
    _loading: ClassVar[str] = "this session"

    def __init__(self, kind: str, base: type[T]) -> None:
        self.kind = kind
        self.noun = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
        self.base = base
        self._classes: dict[str, type[T]] = {}
        self._origins: dict[str, str] = {}
        Registry.all.append(self)

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator: make the class available under ``name``.

        Raises:
            RegistryError: the class does not extend the base, is not a frozen keyword-only dataclass with defaults,
                is still abstract, or the name is taken by another class.
        """

        def decorate(cls: C) -> C:
            if not cls.__module__.startswith("mnp_plugin."):
                load_plugins()  # first, so that a clash is blamed on the newcomer
            self._check(name, cls)
            self._classes[name] = cls
            self._origins[name] = _distribution_of(cls) or Registry._loading
            cls.name = name  # type: ignore[attr-defined]
            return cls

        return decorate

    def _check(self, name: str, cls: type) -> None:
        culprit = f"{self.kind} '{name}', {where_defined(cls)}"
        if not (name and name.replace("-", "_").isidentifier() and name == name.lower()):
            raise RegistryError(f"{culprit}: a name is lower-case letters, digits, '-' and '_'")
        if not (inspect.isclass(cls) and issubclass(cls, self.base)):
            raise RegistryError(f"{culprit}: must extend {self.base.__module__}.{self.base.__qualname__}")
        params = cls.__dict__.get("__dataclass_params__")
        typed: Any = cls
        if params is None or not params.frozen or not all(f.kw_only for f in dataclasses.fields(typed)):
            raise RegistryError(f"{culprit}: put @dataclass(frozen=True, kw_only=True) under the @register line")
        for field in dataclasses.fields(typed):
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise RegistryError(f"{culprit}: field '{field.name}' needs a default")
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        if missing:
            raise RegistryError(f"{culprit}: still abstract, define {', '.join(missing)}")
        other = self._classes.get(name)
        if other is not None and where_defined(other) != where_defined(cls):
            raise RegistryError(f"{culprit}: the name is taken by {where_defined(other)}; choose another")

    def get(self, name: str) -> type[T]:
        """Return the class registered under ``name``.

        Raises:
            UserError: no such name; the message offers the nearest one and the broken plugins.
        """
        load_plugins()
        if name not in self._classes:
            note = "".join(f"\nPlugin '{plugin}' is broken: {reason}" for plugin, reason in BROKEN.items())
            raise UserError(f"no {self.kind} is called '{name}'.{did_you_mean(name, self._classes)}{note}")
        return self._classes[name]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        load_plugins()
        return sorted(self._classes)

    def origin(self, name: str) -> str:
        """Which distribution brought ``name``: ``"mnp_plugin"``, ``"their-package 1.0"`` or ``"this session"``."""
        self.get(name)
        return self._origins[name]


BROKEN: dict[str, str] = {}
"""Plugins that failed to import: entry point name -> reason."""

_loaded = False


@contextlib.contextmanager
def _from(origin: str) -> Iterator[None]:
    """Registrations inside belong to ``origin``; they are undone if the block raises, so no plugin is half there."""
    before = [(r, dict(r._classes), dict(r._origins)) for r in Registry.all]
    previous, Registry._loading = Registry._loading, origin
    try:
        yield
    except BaseException:
        for registry, classes, origins in before:
            for name in registry._classes.keys() - classes.keys():
                # Forget the module too: a sound plugin that shares it registers anew on its own import.
                sys.modules.pop(registry._classes[name].__module__, None)
            registry._classes, registry._origins = classes, origins
        raise
    finally:
        Registry._loading = previous


def load_plugins() -> None:
    """Import the package's own methods, then every entry point; once per process, a broken plugin is only listed."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    with _from("mnp_plugin"):
        for room in BUILTIN_PACKAGES:
            package = importlib.import_module(f"mnp_plugin.{room}")
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"mnp_plugin.{room}.{module.name}")
    for entry in importlib.metadata.entry_points(group=GROUP):
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        try:
            with _from(origin):
                entry.load()
        except (Exception, SystemExit) as error:
            key = entry.name if entry.name not in BROKEN else f"{entry.name} ({origin})"
            BROKEN[key] = f"{origin}, module '{entry.value}': {type(error).__name__}: {error}"

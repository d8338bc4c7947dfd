"""Registries of named classes, filled by entry points, those of this package and of third parties alike, and by decorators.

An entry point ``name = module:Class`` of the group ``mnp_plugin.attacks`` (``.defenses``, ``.nets``, ...) is imported when
that class is asked for, so that a list of names needs no import. One of the group ``mnp_plugin`` names a module that registers
several classes by decorators when it is imported. The style follows pluggy: check at registration, quote the culprit, list a
broken plugin, never die of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, TypeVar, cast

from mnp_plugin.core.declared import GROUP, Declared, declared
from mnp_plugin.core.errors import UserError, did_you_mean

T = TypeVar("T")
C = TypeVar("C", bound=type)


class RegistryError(TypeError):
    """A class that cannot be registered; the message quotes it and says what to change."""


def where_defined(cls: type) -> str:
    """``module.Class (file)``, for messages that must name the culprit."""
    try:
        file = inspect.getsourcefile(cls) or "unknown file"
    except (TypeError, OSError):  # OSError: of python -c
        file = "defined interactively"
    return f"{cls.__module__}.{cls.__qualname__} ({file})"


def _distribution_of(cls: type) -> str | None:
    return "mnp_plugin" if cls.__module__.startswith("mnp_plugin.") else None


class Registry(Generic[T]):
    """Named subclasses of one base class.

    Args:
        kind: singular noun for messages, such as ``"attack"``.
        base: abstract base class that every entry must extend, or ``"module:Class"``, imported with the first entry.
    """

    all: ClassVar[list[Registry[Any]]] = []
    _loading: ClassVar[str] = "this session"

    def __init__(self, kind: str, base: type[T] | str) -> None:
        self.kind = kind
        self.noun = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
        self.plural = f"{kind}s"
        self.group = f"{GROUP}.{self.plural.replace(' ', '_')}"
        self._base = base
        self._classes: dict[str, type[T]] = {}
        self._origins: dict[str, str] = {}
        self._declared: dict[str, Declared] = {}
        Registry.all.append(self)

    @property
    def base(self) -> type[T]:
        """The base class of every entry."""
        if isinstance(self._base, str):
            module, _, name = self._base.partition(":")
            self._base = getattr(importlib.import_module(module), name)
        base: Any = self._base
        return cast("type[T]", base)

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
        if not _is_name(name):
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
        promised = self._declared.get(name)
        if promised is not None and promised.value != f"{cls.__module__}:{cls.__qualname__}":
            raise RegistryError(f"{culprit}: the name is taken by {promised.value} of {promised.origin}; choose another")

    def declare(self, entry: Declared) -> None:
        """Take the name of an entry point; its class is imported by the first :meth:`get`.

        Raises:
            RegistryError: a name that no method may have, or that is taken.
        """
        culprit = f"{self.kind} '{entry.name}', {entry.value} of {entry.origin}"
        if not _is_name(entry.name):
            raise RegistryError(f"{culprit}: a name is lower-case letters, digits, '-' and '_'")
        if not entry.attribute:
            raise RegistryError(f"{culprit}: write {entry.name} = module:Class")
        other = self._declared.get(entry.name)
        if other is not None and other.value != entry.value:
            raise RegistryError(f"{culprit}: the name is taken by {other.value} of {other.origin}; choose another")
        loaded = self._classes.get(entry.name)
        if loaded is not None and f"{loaded.__module__}:{loaded.__qualname__}" != entry.value:
            raise RegistryError(f"{culprit}: the name is taken by {where_defined(loaded)}; choose another")
        self._declared[entry.name] = entry

    def get(self, name: str) -> type[T]:
        """Return the class registered under ``name``.

        Raises:
            UserError: no such name (the message offers the nearest one and the broken plugins), or a plugin whose class
                cannot be imported.
        """
        load_plugins()
        if name not in self._classes and name in self._declared:
            self._load(self._declared[name])
        if name not in self._classes:
            note = "".join(f"\nPlugin '{plugin}' is broken: {reason}" for plugin, reason in BROKEN.items())
            raise UserError(f"no {self.kind} is called '{name}'.{did_you_mean(name, self.names())}{note}")
        return self._classes[name]

    def _load(self, entry: Declared) -> None:
        """Import the class of an entry point. A fault of this package keeps its traceback, one of a plugin is its own."""
        try:
            with _from(entry.origin):
                cls = entry.load()
                if entry.name not in self._classes:  # a decorator above the class may have done it
                    self.register(entry.name)(cls)
        except (Exception, SystemExit) as error:
            if entry.origin == "mnp_plugin":
                raise
            reason = BROKEN[entry.name] = _reason(entry, error)
            del self._declared[entry.name]
            raise UserError(f"{self.kind} '{entry.name}' cannot be loaded: {reason}") from error

    def names(self) -> list[str]:
        """All registered names, sorted; imports no method that an entry point declares by its class."""
        load_plugins()
        return sorted(self._classes.keys() | self._declared.keys())

    def origin(self, name: str) -> str:
        """Which distribution brought ``name``: ``"mnp_plugin"``, ``"their-package 1.0"`` or ``"this session"``."""
        load_plugins()
        if name not in self._classes and name in self._declared:
            return self._declared[name].origin
        self.get(name)
        return self._origins[name]

    def summary(self, name: str) -> str:
        """The first line of the docstring of ``name``, without importing it where its source text can be read."""
        load_plugins()
        if name not in self._classes and name in self._declared:
            text = self._declared[name].summary()
            if text is not None:
                return text
        return (self.get(name).__doc__ or "").strip().partition("\n")[0]


def _is_name(name: str) -> bool:
    return bool(name) and name.replace("-", "_").isidentifier() and name == name.lower()


def _reason(entry: Declared, error: BaseException) -> str:
    what = "class" if entry.attribute else "module"
    return f"{entry.origin}, {what} '{entry.value}': {type(error).__name__}: {error}"


BROKEN: dict[str, str] = {}
"""Plugins that cannot be used: entry point name -> reason."""

_loaded = False


@contextlib.contextmanager
def _from(origin: str) -> Iterator[None]:
    """Registrations inside belong to ``origin``; they are undone if the block raises, so no plugin is half there."""
    before = [(r, dict(r._classes), dict(r._origins), dict(r._declared)) for r in Registry.all]
    previous, Registry._loading = Registry._loading, origin
    try:
        yield
    except BaseException:
        for registry, classes, origins, promised in before:
            for name in registry._classes.keys() - classes.keys():
                module = registry._classes[name].__module__
                if module.startswith("mnp_plugin."):  # ours, imported on the way, and sound
                    classes[name], origins[name] = registry._classes[name], registry._origins[name]
                else:  # forget the module too: a sound plugin that shares it registers anew on its own import
                    sys.modules.pop(module, None)
            registry._classes, registry._origins, registry._declared = classes, origins, promised
        raise
    finally:
        Registry._loading = previous


def load_plugins() -> None:
    """Read every entry point, once per process; import those that name a module. A broken plugin is only listed."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    for entry in declared():
        try:
            with _from(entry.origin):
                if entry.group == GROUP:
                    entry.load()
                else:
                    _registry_of(entry).declare(entry)
        except (Exception, SystemExit) as error:
            key = entry.name if entry.name not in BROKEN else f"{entry.name} ({entry.origin})"
            BROKEN[key] = _reason(entry, error)


def _registry_of(entry: Declared) -> Registry[Any]:
    registries = importlib.import_module("mnp_plugin.core.registries").all_registries
    for registry in registries:
        if registry.group == entry.group:
            return cast("Registry[Any]", registry)
    known = [GROUP, *(r.group for r in registries)]
    raise RegistryError(f"no group is called '{entry.group}'.{did_you_mean(entry.group, known)}")

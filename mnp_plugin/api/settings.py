"""Settings as ``key=value`` words, as the command line takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from mnp_plugin.core import params as spec
from mnp_plugin.core.component import Component
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.registry import Registry

T = TypeVar("T", bound=Component)


def component(registry: Registry[T], name: str, settings: Sequence[str]) -> T:
    """A registered component from ``key=value`` words; values are written as in YAML.

    Raises:
        UserError: an unknown name or key, a word without ``=``, a value of another type or out of range.
    """
    return built(registry.get(name), settings, f"settings of {registry.kind} '{name}'")


def built(cls: type[T], settings: Sequence[str], source: str) -> T:
    """A component of class ``cls`` from ``key=value`` words; ``source`` names them in messages. Raises as :func:`component`."""
    return spec.build(cls, spec.Document(parse_settings(settings, source), {}, source), ())


def parse_settings(settings: Sequence[str], source: str) -> dict[str, Any]:
    """Words ``key=value`` as a mapping; values are written as in YAML.

    Raises:
        UserError: a word without ``=``, a key that stands twice, a value that is no YAML.
    """
    values: dict[str, Any] = {}
    for word in settings:
        key, equals, value = word.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UserError(f"{source}: '{word}' is no setting; write key=value")
        if key in values:
            raise UserError(f"{source}: '{key}' is given twice")
        values[key] = spec.parse_yaml(value, f"{source}, {key}").data
    return values

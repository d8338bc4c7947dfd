"""Configuration text <-> frozen dataclasses, strictly; and the fingerprint of a resolved configuration.

One source of truth: the dataclass field, declared with :func:`param`, carries default, type, range and meaning. The YAML
mapping, the constructor, the record and the fingerprint all follow from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from mnp_plugin.core.documents import Document as Document
from mnp_plugin.core.documents import parse_yaml as parse_yaml
from mnp_plugin.core.documents import read_yaml as read_yaml
from mnp_plugin.core.errors import UserError, did_you_mean

D = TypeVar("D")
MAX_FLOAT = 3.4e38
"""Largest number that 32 bits hold."""


def param(
    default: Any,
    help: str,  # noqa: A002 - the word users know from argparse
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    place: bool = False,
) -> Any:
    """Declare a hyper-parameter: its default, its meaning and (inclusive ``low``/``high``, exclusive ``above``) range.

    A ``place`` says where to find what is the same everywhere: no result depends on it, and in identities its default stands.
    """
    meta = {"help": help, "low": low, "high": high, "above": above, "place": place}
    return dataclasses.field(default=default, metadata=meta)


def describe_range(field: dataclasses.Field[Any]) -> str:
    """``">= 0, <= 1"``, or an empty string where any value of the type will do."""
    signs = (("low", ">="), ("above", ">"), ("high", "<="))
    return ", ".join(f"{sign} {field.metadata[key]:g}" for key, sign in signs if field.metadata.get(key) is not None)


def type_name(hint: Any) -> str:
    """A type as a user would say it: ``int``, ``float or null``, ``one of 'a', 'b'``."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(a) for a in args)
    if origin is tuple:
        return f"list of {type_name(args[0])}"
    if hint is type(None):
        return "null"
    return {str: "text", bool: "true or false"}.get(hint, getattr(hint, "__name__", str(hint)))


def _explain_text(value: str, hint: Any) -> str:
    try:
        number = float(value)
    except ValueError:
        return ""
    if float not in (hint, *get_args(hint)) and int not in (hint, *get_args(hint)):
        return ""
    plain = f"{number:.10f}".rstrip("0").rstrip(".") if 1e-9 < abs(number) < 1e9 else f"{number:.6e}"
    return f" (YAML reads {value} as text: write {plain}, or with a point and a sign as in 1.0e-3, and no quotes)"


def _short(value: Any) -> str:
    """``value`` as a message shows it; Python itself refuses to print the largest integers."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def coerce(value: Any, hint: Any, where: str) -> Any:
    """Return ``value`` as type ``hint``; the only conversions are int -> float and list -> tuple.

    Raises:
        UserError: the value has another type.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        for option in args:
            if value == option and type(value) is type(option):
                return value
        near = did_you_mean(value, [str(a) for a in args]) if isinstance(value, str) else ""
        raise UserError(f"{where} must be {type_name(hint)}, not {_short(value)}.{near}")
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        for option in args:
            if option is type(None):
                continue
            try:
                return coerce(value, option, where)
            except UserError:
                if option is float and isinstance(value, int | float) and not isinstance(value, bool):
                    raise  # a number, but out of range: that says more than the types that were possible
        extra = _explain_text(value, hint) if isinstance(value, str) else ""
        raise UserError(f"{where} must be {type_name(hint)}, not {_short(value)}{extra}")
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(coerce(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not -MAX_FLOAT <= value <= MAX_FLOAT:  # false of NaN too; torch computes with 32 bits
            raise UserError(f"{where} must be a finite number below {MAX_FLOAT:.1e}, not {_short(value)}")
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    extra = ""
    if isinstance(value, str):
        extra = _explain_text(value, hint)
    elif isinstance(value, bool) and hint is str:
        extra = " (YAML reads yes, no, on and off as true and false: put the word in quotes)"
    raise UserError(f"{where} must be {type_name(hint)}, not {_short(value)}{extra}")


def check(component: Any) -> None:
    """Coerce and range-check every field of a frozen dataclass in place; called from its ``__post_init__``."""
    hints = typing.get_type_hints(type(component))
    for field in dataclasses.fields(component):
        where = f"{type(component).__name__}.{field.name}"
        value = coerce(getattr(component, field.name), hints[field.name], where)
        low, above, high = (field.metadata.get(k) for k in ("low", "above", "high"))
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, bool | str) or item is None or dataclasses.is_dataclass(item):
                continue
            bad = (low is not None and item < low) or (high is not None and item > high)
            if bad or (above is not None and item <= above):
                raise UserError(f"{where} must be {describe_range(field)}, not {_short(item)}")
        object.__setattr__(component, field.name, value)


def build(cls: type[D], document: Document, path: tuple[Any, ...], *, skip: tuple[str, ...] = ()) -> D:
    """Construct dataclass ``cls`` from the mapping at ``path``; ``skip`` names keys that belong to the caller.

    Raises:
        UserError: unknown key, wrong type or value out of range; with file, line and key.
    """
    data = value_at(document, path)
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise document.error(path, f"must be a mapping of settings, not {_short(data)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key in skip:
            continue
        if key not in fields:
            raise document.error((*path, key), f"unknown key '{key}'.{did_you_mean(key, [*fields, *skip])}")
        if dataclasses.is_dataclass(hints[key]):
            values[key] = build(typing.cast("type[Any]", hints[key]), document, (*path, key))
            continue
        try:
            values[key] = coerce(value, hints[key], f"'{key}'")
        except UserError as error:
            raise document.error((*path, key), str(error)) from None
    try:
        return cls(**values)
    except UserError as error:
        culprit = next((k for k in values if f".{k} " in str(error)), None)
        raise document.error((*path, culprit) if culprit else path, str(error)) from None


def value_at(document: Document, path: tuple[Any, ...]) -> Any:
    """The plain value at ``path``."""
    value = document.data
    for key in path:
        value = value[key]
    return value


def to_plain(component: Any) -> dict[str, Any]:
    """Resolved mapping of a component: its registered name and version first, then every field."""
    plain: dict[str, Any] = {}
    for key in ("name", "version"):
        value = getattr(type(component), key, None)
        if isinstance(value, str | int):
            plain[key] = value
    for field in dataclasses.fields(component):
        value = field.default if field.metadata.get("place") else getattr(component, field.name)
        if dataclasses.is_dataclass(value):
            value = to_plain(value)
        plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain


def fingerprint(plain: Any) -> str:
    """16 hexadecimal digits that identify a resolved configuration, independent of key order."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def checksum(content: Any) -> str:
    """SHA-256 of JSON content, in hexadecimal, independent of key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seed_of(*identity: Any) -> int:
    """A 63-bit seed from what a thing *is*, so that order, resumption and parallelism never change a number."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

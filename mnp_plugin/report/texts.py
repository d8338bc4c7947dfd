"""Records as text: every kind of them is written and read here. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mnp_plugin.core.errors import UserError
from mnp_plugin.core.params import checksum

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")
Status = Literal["ok", "failed"]

CHECKSUM = "sha256"
"""Key of the checksum of all the other content. It shows damage and edits by hand; it is no signature."""
AGAIN = "delete it and run again"
"""What puts a damaged record right."""
UNSEALED = "it has no checksum, as an older version wrote it; to keep it, run: python -m mnp_plugin.report.stamp {folder}"


class DamagedRecordError(UserError):
    """A file whose content is not what was written: it does not count, and ``run`` makes it again."""


def to_json(record: DataclassInstance) -> str:
    """Stable, human-readable JSON text under a checksum.

    Raises:
        ValueError: a number is NaN or infinite; a missing score is None with a reason.
    """
    return json.dumps(sealed(dataclasses.asdict(record)), indent=1, sort_keys=True, allow_nan=False) + "\n"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` with its checksum."""
    return {**content, CHECKSUM: checksum(content)}


def unsealed(content: dict[str, Any]) -> bool | None:
    """Take the checksum out of ``content``: whether it is right; None if there is none."""
    found = content.pop(CHECKSUM, None)
    try:
        return None if found is None else found == checksum(content)
    except RecursionError:  # nested deeper than anything written here
        return False


def parsed(text: str, source: str, what: str, schema: int, build: Callable[[dict[str, Any]], R], remedy: str = AGAIN) -> R:
    """A record from its text.

    Args:
        text: JSON.
        source: the file, for messages.
        what: the kind of record, in words.
        schema: the one that this version reads.
        build: makes it of its keys; a TypeError, a KeyError or a ValueError of its own becomes the message.
        remedy: what puts a damaged file of this kind right.

    Raises:
        DamagedRecordError: not JSON, or not what its checksum says.
        UserError: another schema, missing and unknown keys, no checksum, or what ``build`` refuses. All name ``source``.
    """
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(f"{source}: not {what}, its JSON is broken ({error}); {remedy}") from None
    if not isinstance(plain, dict) or plain.get("schema") != schema:
        found = plain.get("schema") if isinstance(plain, dict) else None
        raise UserError(f"{source}: not {what}: schema {found!r}, this version reads {schema}; {remedy}")
    whole = unsealed(plain)
    try:
        record = build(plain)
        if fault := _misfit(record) or _misplaced(record, source):
            raise ValueError(fault)
    except (TypeError, KeyError, ValueError) as error:
        refused = (
            DamagedRecordError if whole is False else UserError
        )  # what a newer version wrote is whole: nobody may replace it
        raise refused(f"{source}: not {what}: {error}; {remedy}") from None
    if whole is None:
        raise UserError(f"{source}: {UNSEALED.format(folder=Path(source).parent.parent)}")
    if not whole:
        raise DamagedRecordError(f"{source}: its content is not what its checksum says; {remedy}")
    return record


def read_all(files: Iterable[Path], read: Callable[[str, str], R]) -> tuple[dict[str, R], list[str]]:
    """(what ``read`` makes of each file, by its name; what is to be said of the damaged ones, which do not count).

    Raises:
        UserError: a file that cannot be read and is not damaged.
    """
    found: dict[str, R] = {}
    damaged: list[str] = []
    for file in files:
        try:
            if not file.is_file():  # a folder; or a pipe or device, which may never end
                raise DamagedRecordError(f"{file}: no regular file; {AGAIN}")
            found[file.name] = read(file.read_text(encoding="utf-8", errors="replace"), str(file))
        except DamagedRecordError as error:
            damaged.append(str(error))
    return found, damaged


def _misfit(record: DataclassInstance) -> str:
    """Which value of ``record`` is not of its type, or no number that can be; empty if none is."""
    for name, hint in _hints(type(record)).items():
        value = getattr(record, name)
        if not _fits(value, hint):
            wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            return f"'{name}' must be {wanted}, not {_short(value)}"
    return ""


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: object, hint: Any) -> bool:
    kind, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind in (UnionType, Union):
        return any(_fits(value, one) for one in inner)
    if kind is Literal:
        return value in inner
    if kind is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if kind is dict:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if hint is float:
        return finite(value)
    if hint is int:
        return type(value) is int and abs(value) < 2**63
    return isinstance(value, hint)


def _short(value: object) -> str:
    """``value`` in at most 40 characters; a number of very many digits is not written out."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of very many digits"
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _misplaced(record: DataclassInstance, source: str) -> str:
    """Whether the file is called after another ``id`` than it holds."""
    named, own = re.search(r"-([0-9a-f]{16})\.json$", source), getattr(record, "id", None)
    return f"it holds {own}, not what its name says" if named and own is not None and named[1] != own else ""


def finite(value: object) -> bool:
    """Whether ``value`` is a finite number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def fraction(value: object) -> bool:
    """Whether ``value`` is a number from 0 to 1."""
    return type(value) in (int, float) and 0 <= value <= 1  # type: ignore[operator]

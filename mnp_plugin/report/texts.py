"""Records as text: every kind of them is written and read here. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mnp_plugin.core.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R")
Status = Literal["ok", "failed"]


def to_json(record: DataclassInstance) -> str:
    """Stable, human-readable JSON text.

    Raises:
        ValueError: a number is NaN or infinite; a missing score is None with a reason.
    """
    return json.dumps(dataclasses.asdict(record), indent=1, sort_keys=True, allow_nan=False) + "\n"


def parsed(text: str, source: str, what: str, schema: int, build: Callable[[dict[str, Any]], R]) -> R:
    """A record from its text.

    Args:
        text: JSON.
        source: the file, for messages.
        what: the kind of record, in words.
        schema: the one that this version reads.
        build: makes it of its keys; a TypeError, a KeyError or a ValueError of its own becomes the message.

    Raises:
        UserError: not JSON, another schema, missing and unknown keys, or what ``build`` refuses; names ``source``.
    """
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not {what}, its JSON is broken ({error}); delete it and run again") from None
    if not isinstance(plain, dict) or plain.get("schema") != schema:
        found = plain.get("schema") if isinstance(plain, dict) else None
        raise UserError(f"{source}: not {what}: schema {found!r}, this version reads {schema}; delete it and run again")
    try:
        return build(plain)
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{source}: not {what}: {error}; delete it and run again") from None


def read_planned(folder: Path, planned: Collection[str], read: Callable[[str, str], R]) -> list[R]:
    """The records among the files ``planned``, failed ones too, in ``folder`` (``results/<suite>/<kind>``).

    Raises:
        UserError: one that cannot be read.
    """
    files = [file for file in sorted(folder.glob("*.json")) if file.name in planned]
    return [read(file.read_text(encoding="utf-8", errors="replace"), str(file)) for file in files]


def finite(value: object) -> bool:
    """Whether ``value`` is a finite number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def fraction(value: object) -> bool:
    """Whether ``value`` is a number from 0 to 1."""
    return type(value) in (int, float) and 0 <= value <= 1  # type: ignore[operator]

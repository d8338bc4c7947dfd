"""Why a file from elsewhere is not read, and what its parts may cost together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_HASHES = 4096
"""Sizes, frozen sets and members of sets that are tuples, in one file."""


class RefusedError(ValueError):
    """Why a file is not read; the door that was opened puts the file's name before it."""


@dataclass
class Budget:
    """Bytes that values may take together, so that a small file cannot claim its contents over and over."""

    left: int
    hashes: int = MAX_HASHES

    def charge(self, size: int) -> None:
        """Take ``size`` bytes.

        Raises:
            RefusedError: more is claimed than the file can hold.
        """
        self.left -= size
        if self.left < 0:
            raise RefusedError("its values claim far more bytes than the file has")

    def charge_hashes(self, count: int) -> None:
        """Take ``count`` values whose hashes a file can make collide, as keys or members, which costs quadratic time.

        Raises:
            RefusedError: there are more than any file needs.
        """
        self.hashes -= count
        if self.hashes < 0:
            raise RefusedError(f"it makes more than {MAX_HASHES} tuples and sets that may serve as keys")


def shown(value: object) -> str:
    """A short, printable form of what a file says; containers are never walked, for they may unfold without end."""
    if type(value) is str:
        plain = ascii(value[:100])
        return plain if len(plain) <= 80 else plain[:77] + "..."
    if type(value) is bool or value is None or (type(value) is int and value.bit_length() <= 64):
        return str(value)
    return f"a value of type {type(value).__name__}"


def need(holds: bool, reason: str) -> None:
    """Raise :class:`RefusedError` with ``reason`` unless it ``holds``."""
    if not holds:
        raise RefusedError(reason)


def whole(value: Any, what: str) -> int:
    """``value`` if it is an integer of 0 or more."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise RefusedError(f"{what} is {shown(value)}, not a count")
    return value


def wholes(value: Any, what: str, most: int) -> tuple[int, ...]:
    """``value`` if it is a tuple of up to ``most`` integers of 0 or more."""
    need(type(value) is tuple and len(value) <= most, f"{what} is no tuple of up to {most} counts")
    return tuple(whole(item, what) for item in value)

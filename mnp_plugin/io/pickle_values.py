"""What a pickle from elsewhere may make: plain values, and the checked functions that make NumPy's."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


class RefusedError(ValueError):
    """Why a file is not read; the door that was opened puts the file's name before it."""


class Token:
    """A thing that a pickle refers to and that is no plain value yet."""

    def settled(self) -> Any:
        """The plain value it stands for.

        Raises:
            RefusedError: it stands for none.
        """
        raise RefusedError(f"it stores {self} where a plain value belongs")


@dataclass(frozen=True)
class Name(Token):
    """A name that the file asks to import. It stays a name."""

    path: str

    def __str__(self) -> str:
        return f"the name {shown(self.path)}"


@dataclass(eq=False)
class Dtype(Token):
    """A NumPy dtype without objects, fields or sub-arrays."""

    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return "a NumPy dtype"


@dataclass(eq=False)
class Array(Token):
    """A NumPy array; empty-handed until the file hands its contents over."""

    value: npt.NDArray[Any] | None = None

    def __str__(self) -> str:
        return "a NumPy array without contents"

    def settled(self) -> Any:
        return super().settled() if self.value is None else self.value


@dataclass
class Budget:
    """Bytes that values may take together, so that a small file cannot claim its contents over and over."""

    left: int

    def charge(self, size: int) -> None:
        """Take ``size`` bytes.

        Raises:
            RefusedError: more is claimed than the file can hold.
        """
        self.left -= size
        if self.left < 0:
            raise RefusedError("its values claim far more bytes than the file has")


def shown(text: object) -> str:
    """A short, printable form of what a file says."""
    plain = ascii(text)
    return plain if len(plain) <= 80 else plain[:77] + "..."


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


# ------------------------------------------------------------------------------------------------- what a file may have made

_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,6})")


def _dtype(spec: Any, align: Any = False, copy: Any = True) -> Dtype:
    need(
        type(spec) is str and _DTYPE.fullmatch(spec) is not None,
        f"it holds an array of dtype {shown(spec)}; only numbers and text are read",
    )
    return Dtype(np.dtype(spec))


def build_dtype(token: Dtype, state: Any) -> None:
    """Take over the byte order that a pickled dtype keeps in its state; refuse objects, fields and sub-arrays."""
    need(type(state) is tuple and len(state) in (8, 9) and state[0] in (3, 4), "a NumPy dtype has an unknown state")
    need(state[2:5] == (None, None, None), "it holds a NumPy dtype with fields or sub-arrays; only numbers and text are read")
    need(type(state[7]) is int and (len(state) == 8 or state[8] is None), "a NumPy dtype has unknown flags or metadata")
    need(not state[7] & 1 and not state[7] & 4, "it holds a NumPy dtype of objects; only numbers and text are read")
    need(state[1] in ("<", ">", "|", "="), f"a NumPy dtype has byte order {shown(state[1])}")
    token.dtype = token.dtype.newbyteorder(state[1])


def _filled(dtype: Any, shape: tuple[int, ...], raw: Any, order: Any, budget: Budget) -> npt.NDArray[Any]:
    need(type(dtype) is Dtype, "an array has no dtype")
    need(type(raw) in (bytes, bytearray), "it holds an array of Python objects; only numbers and text are read")
    kind: np.dtype[Any] = dtype.dtype
    count = 1
    for side in shape:
        count *= side
    if count * kind.itemsize != len(raw):
        raise RefusedError(f"an array of shape {shown(shape)} and dtype {kind} is given {len(raw)} bytes")
    budget.charge(len(raw) + 256)
    if kind.itemsize == 0:
        need(count < 2**20, f"an array of {count} empty texts")
        return np.zeros(shape, kind)
    if kind.kind == "b":
        need(max(raw, default=0) <= 1, "a bool is neither 0 nor 1")
    values = np.frombuffer(raw, kind).reshape(shape, order=order).astype(kind.newbyteorder("="))
    if kind.kind == "U":  # NumPy takes any number for a character, and whoever reads the array later would fail
        need(bool((values.reshape(-1).view(np.uint32) <= 0x10FFFF).all()), "a text holds what is no character")
    return values


def _array_shape(shape: Any) -> tuple[int, ...]:
    return wholes(shape, "the shape of an array", 32)


def _reconstruct(cls: Any, shape: Any, code: Any) -> Array:
    need(cls == Name("numpy.ndarray"), f"it holds a NumPy array of class {shown(cls)}")
    need(shape == (0,) and code in (b"b", "b"), "a NumPy array is not stored as NumPy stores it")
    return Array()


def build_array(token: Array, state: Any, budget: Budget) -> None:
    """Give a pickled array its contents."""
    need(token.value is None, "an array is filled twice")
    need(type(state) is tuple and len(state) == 5 and state[0] == 1, "a NumPy array has an unknown state")
    need(type(state[3]) is bool, "a NumPy array has an unknown memory order")
    token.value = _filled(state[2], _array_shape(state[1]), state[4], "F" if state[3] else "C", budget)


def _bytes(*arguments: Any) -> bytes:
    need(not arguments, "it makes bytes in a way that NumPy and torch do not")  # bytes(10**12) would be a bomb
    return b""


def _bytearray(*arguments: Any) -> bytearray:
    need(len(arguments) <= 1 and all(type(a) is bytes for a in arguments), "it makes a bytearray from something else")
    return bytearray(b"".join(arguments))


def plain_builders(budget: Budget) -> dict[str, Callable[..., Any]]:
    """The calls that plain containers and NumPy values need, by the name a pickle gives them."""

    def encode(text: Any, encoding: Any) -> bytes:
        need(type(text) is str and encoding in ("latin1", "latin-1"), "it encodes text in a way that NumPy does not")
        budget.charge(len(text))
        return bytes(text, "latin-1")

    def frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
        need(order in ("C", "F"), "a NumPy array has an unknown memory order")
        return Array(_filled(dtype, _array_shape(shape), raw, order, budget))

    def scalar(dtype: Any, raw: Any) -> Any:
        return _filled(dtype, (), raw, "C", budget)[()]

    def items(make: Callable[[Any], Any]) -> Callable[..., Any]:
        def made(values: Any = ()) -> Any:
            need(type(values) in (list, tuple), "it makes a set of something else than a list")
            budget.charge(64 * len(values))
            return make([as_key(value) for value in values])

        return made

    builders: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": lambda: OrderedDict(),
        "_codecs.encode": encode,
        "numpy.dtype": _dtype,
    }
    for core in ("numpy.core", "numpy._core"):
        builders[f"{core}.multiarray._reconstruct"] = _reconstruct
        builders[f"{core}.multiarray.scalar"] = scalar
        builders[f"{core}.numeric._frombuffer"] = frombuffer
    for module in ("builtins", "__builtin__"):
        builders |= {f"{module}.bytes": _bytes, f"{module}.bytearray": _bytearray}
        builders |= {f"{module}.set": items(set), f"{module}.frozenset": items(frozenset)}
    return builders


PLAIN_NAMES = frozenset({"numpy.ndarray"})
"""Names that may be mentioned as arguments although nothing is called by them."""

_SCALARS = frozenset({str, int, float, bool, bytes, type(None)})


def as_key(value: Any) -> Any:
    """``value`` if it may be a key or a set's member: a scalar, or a flat tuple of scalars (nested ones may take for ever)."""
    if type(value) in _SCALARS:
        return value
    flat = value if type(value) is tuple and len(value) <= 64 else (value,)
    need(
        all(type(item) in _SCALARS or isinstance(item, np.generic) for item in flat), "a key is no number, text or tuple of them"
    )
    return value

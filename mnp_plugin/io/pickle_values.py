"""The checked functions that stand for NumPy's and Python's own in a pickle from elsewhere, and what they make."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mnp_plugin.io.refusal import Budget, RefusedError, need, shown, wholes


class Token:
    """A thing that a pickle refers to and that is no plain value yet."""

    def settled(self) -> Any:
        """The plain value it stands for.

        Raises:
            RefusedError: it stands for none.
        """
        raise RefusedError(f"it stores {self} where a plain value belongs")


class Inert(Token):
    """Stands for any object whose class is not read. It keeps the name and forgets whatever the file does to it."""

    def __init__(self, path: str, reason: str | None = None) -> None:
        self.path = path
        self.reason = reason or f"it asks for {shown(path)}, which plain values do not need"

    def __setstate__(self, state: Any) -> None:
        """Forget ``state``: attributes, items, arguments of a call."""

    def settled(self) -> Any:
        raise RefusedError(self.reason)


class Dtype(Token):
    """A NumPy dtype without objects, fields or sub-arrays."""

    dtype: np.dtype[Any]

    def __setstate__(self, state: Any) -> None:
        """Take over the byte order that a pickled dtype keeps in its state; refuse objects, fields and sub-arrays."""
        need(type(state) is tuple and len(state) in (8, 9) and state[0] in (3, 4), "a NumPy dtype has an unknown state")
        plain = all(item is None for item in state[2:5])
        need(plain, "it holds a NumPy dtype with fields or sub-arrays; only numbers and text are read")
        need(type(state[7]) is int and (len(state) == 8 or state[8] is None), "a NumPy dtype has unknown flags or metadata")
        need(not state[7] & 1 and not state[7] & 4, "it holds a NumPy dtype of objects; only numbers and text are read")
        order = state[1]
        need(type(order) is str and order in ("<", ">", "|", "="), f"a NumPy dtype has byte order {shown(order)}")
        self.dtype = self.dtype.newbyteorder(order)

    def __str__(self) -> str:
        return "a NumPy dtype"


class Array(Token):
    """A NumPy array; empty until the file hands its contents over. The class itself stands for ``numpy.ndarray``."""

    budget: Budget
    value: npt.NDArray[Any] | Inert | None = None

    def __setstate__(self, state: Any) -> None:
        """Take the contents that a pickled array keeps in its state."""
        need("budget" in vars(self) and self.value is None, "an array is filled twice")
        need(type(state) is tuple and len(state) == 5 and state[0] == 1, "a NumPy array has an unknown state")
        need(type(state[3]) is bool, "a NumPy array has an unknown memory order")
        self.value = _filled(state[2], _array_shape(state[1]), state[4], "F" if state[3] else "C", self.budget)

    def settled(self) -> Any:
        if self.value is None:
            return super().settled()
        return self.value.settled() if isinstance(self.value, Inert) else self.value

    def __str__(self) -> str:
        return "a NumPy array without contents"


_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,6})")


def _dtype(spec: Any, align: Any = False, copy: Any = True) -> Dtype | Inert:
    if type(spec) is not str or _DTYPE.fullmatch(spec) is None:
        return Inert("numpy.dtype", f"it holds an array of dtype {shown(spec)}; only numbers and text are read")
    made = Dtype()
    made.dtype = np.dtype(spec)
    return made


def _filled(dtype: Any, shape: tuple[int, ...], raw: Any, order: Any, budget: Budget) -> npt.NDArray[Any] | Inert:
    if type(dtype) is Inert:
        return dtype
    need(type(dtype) is Dtype, "an array has no dtype")
    need(type(raw) is bytes, "it holds an array of Python objects; only numbers and text are read")
    kind: np.dtype[Any] = dtype.dtype
    count = 1
    for side in shape:
        count *= side
    need(count * kind.itemsize == len(raw), f"an array of {count} values of {kind} is given {len(raw)} bytes")
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


def _bytes(*arguments: Any) -> bytes:
    need(not arguments, "it makes bytes in a way that NumPy and torch do not")  # bytes(10**12) would be a bomb
    return b""


def builders(budget: Budget) -> dict[str, Any]:
    """What plain containers and NumPy values need, by the name a pickle gives it."""

    def latin(text: Any, encoding: Any) -> bytes:
        known = type(text) is str and type(encoding) is str and encoding in ("latin1", "latin-1")
        need(known, "it encodes text in a way that NumPy does not")
        budget.charge(len(text))
        return bytes(text, "latin-1")

    def reconstruct(cls: Any, shape: Any, code: Any) -> Array:
        need(cls is Array, "it holds a NumPy array of another class than numpy.ndarray")
        stored = wholes(shape, "the shape of an array", 1) == (0,) and type(code) in (str, bytes) and code in ("b", b"b")
        need(stored, "a NumPy array is not stored as NumPy stores it")
        made = Array()
        made.budget = budget
        return made

    def scalar(dtype: Any, raw: Any) -> Any:
        need(type(dtype) is not Dtype or dtype.dtype.kind != "c", "it holds a complex number outside an array")
        made = _filled(dtype, (), raw, "C", budget)
        return made if isinstance(made, Inert) else made[()]

    def items(make: Callable[[Any], Any]) -> Callable[..., Any]:
        def made(values: Any = ()) -> Any:
            need(type(values) in (list, tuple), "it makes a set of something else than a list")
            budget.charge(64 * len(values))
            budget.charge_hashes(sum(type(value) is tuple for value in values) + (make is frozenset))
            return make([as_key(value) for value in values])

        return made

    made: dict[str, Any] = {
        "collections.OrderedDict": lambda: OrderedDict(),
        "_codecs.encode": latin,
        "numpy.dtype": _dtype,
        "numpy.ndarray": Array,
    }
    for core in ("numpy.core", "numpy._core"):
        made |= {f"{core}.multiarray._reconstruct": reconstruct, f"{core}.multiarray.scalar": scalar}
    for module in ("builtins", "__builtin__"):
        made |= {f"{module}.bytes": _bytes, f"{module}.set": items(set), f"{module}.frozenset": items(frozenset)}
    return made


_SCALARS = frozenset({str, int, float, bool, bytes, type(None)})
MAX_DEPTH = 64
MAX_VALUES = 20_000_000
"""Values in the result, each counted as often as it can be reached (shared lists can multiply without end)."""


def as_key(value: Any) -> Any:
    """``value`` if it may be a key or a set's member: a scalar, or a flat tuple of scalars (nested ones may take for ever)."""
    flat = value if type(value) is tuple and len(value) <= 64 else (value,)
    plain = all(type(item) in _SCALARS or isinstance(item, np.generic) for item in flat)
    need(plain, "a key is no number, text or tuple of them")
    return value


class Settler:
    """Turns what a pickle made into plain values: every token is resolved, cycles and endless nesting are refused."""

    def __init__(self) -> None:
        self.done: dict[int, tuple[Any, int]] = {}
        self.open: set[int] = set()

    def settle(self, value: Any) -> Any:
        """A plain copy of ``value``.

        Raises:
            RefusedError: it contains itself, is nested too deeply, has too many values, or one of them is not plain.
        """
        return self._walk(value, 0)[0]

    def _walk(self, value: Any, depth: int) -> tuple[Any, int]:
        if isinstance(value, Token):
            return value.settled(), 1
        if type(value) not in (dict, OrderedDict, list, tuple):
            need(type(value) in _SCALARS | {set, frozenset} or isinstance(value, np.generic), f"it stores {shown(value)}")
            return value, 1
        if id(value) in self.done:
            return self.done[id(value)]
        need(id(value) not in self.open, "a value contains itself")
        need(depth < MAX_DEPTH, f"its values are nested more than {MAX_DEPTH} deep")
        self.open.add(id(value))
        # by index: a file may give an OrderedDict attributes that hide its methods
        members = [value[as_key(key)] for key in value] if isinstance(value, dict) else value
        walked = [self._walk(member, depth + 1) for member in members]
        size = 1 + sum(count for _, count in walked)
        need(size <= MAX_VALUES, f"it unfolds to more than {MAX_VALUES} values")
        plain = [member for member, _ in walked]
        made: Any = type(value)(zip(value, plain, strict=True)) if isinstance(value, dict) else type(value)(plain)
        self.open.discard(id(value))
        self.done[id(value)] = (made, size)
        return made, size

"""A pickle interpreter that can build plain values and nothing else.

Python's own unpickler imports what a file names and calls it. This one never imports, never looks an attribute up and calls
nothing that the file chose: an imported name is an inert token, and a call is looked up by that name in a table of functions
of :mod:`mnp_plugin.io.pickle_values` and ``torch_files``, each of which checks its arguments. Any opcode not listed is
refused.
"""

from __future__ import annotations

import io
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mnp_plugin.io.pickle_values import (
    Array,
    Budget,
    Dtype,
    Name,
    RefusedError,
    Token,
    as_key,
    build_array,
    build_dtype,
    need,
    shown,
)

MAX_STEPS = 20_000_000
"""Opcodes in one pickle; BackdoorBench's largest published files have about a million."""
MAX_DEPTH = 64
MAX_VALUES = 20_000_000
"""Values in the result, each counted as often as it can be reached (shared lists can multiply without end)."""
MAX_INTEGER_BITS = 128

# fmt: off
_PUSHES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8",
})
_ACTIONS = frozenset({
    "MARK", "POP", "POP_MARK", "DUP", "TUPLE", "LIST", "DICT", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "ADDITEMS",
    "FROZENSET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "MEMOIZE",
})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
# fmt: on
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(eq=False)
class Machine:
    """Runs one pickle over a stack of plain values and tokens.

    Args:
        builders: what may be called, by name; each function checks its own arguments.
        names: what else may be named.
        budget: of the bytes that values take.
        persistent: makes a token of a persistent id (torch's storages).
    """

    builders: Mapping[str, Callable[..., Any]]
    names: frozenset[str]
    budget: Budget
    persistent: Callable[[Any], Token] | None = None
    stack: list[Any] = field(default_factory=list)
    marked: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, stream: io.BytesIO) -> Any:
        """Interpret the pickle at the stream's position; the stream then stands behind it.

        Raises:
            RefusedError: it needs anything but plain values.
        """
        argument: Any
        actions = {name: getattr(self, f"_op_{name.lower()}") for name in _ACTIONS}
        for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            name = opcode.name
            if name in _PUSHES:
                if type(argument) is int and argument.bit_length() > MAX_INTEGER_BITS:
                    raise RefusedError("an integer is absurdly large")
                self.stack.append(argument)
            elif name in _PUTS:
                self.memo[int(argument)] = self._top()
            elif name in _GETS:
                self._get(int(argument))
            elif name in actions:
                actions[name](argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                self.stack.append(_EMPTY[name]())
            elif name in _TUPLES:
                self._take(_TUPLES[name])
            elif name == "STOP":
                return self._pop()
            elif name == "PROTO":
                need(argument <= 5, f"pickle protocol {argument} is not known")
            elif name != "FRAME":
                raise RefusedError(f"it asks to make an object of a class (pickle opcode {name}); only plain values are read")
            if step >= MAX_STEPS:
                raise RefusedError(f"it takes more than {MAX_STEPS} steps to read")
        raise RefusedError("the pickle has no end")

    def _top(self) -> Any:
        if not self.stack:
            raise RefusedError("the pickle takes a value from an empty stack")
        return self.stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self.stack.pop()

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise RefusedError("it refers to a value that it has not stored")
        self.stack.append(self.memo[index])

    def _op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self._top()

    def _take(self, count: int) -> None:
        need(len(self.stack) >= count, "the pickle takes a value from an empty stack")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _since_mark(self) -> list[Any]:
        need(bool(self.marked), "the pickle looks for a mark that is not there")
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _op_mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def _op_pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def _op_pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _op_dup(self, _: Any) -> None:
        self.stack.append(self._top())

    def _op_tuple(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append(tuple(items))

    def _op_list(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append(items)

    def _op_dict(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._set(items)

    def _op_setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _op_setitems(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        need(type(self._top()) in (dict, OrderedDict), "it stores items in what is no dictionary")
        need(len(items) % 2 == 0, "a dictionary has a key without a value")
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[as_key(key)] = value

    def _op_append(self, _: Any) -> None:
        self._extend([self._pop()])

    def _op_appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        need(type(self._top()) is list, "it appends to what is no list")
        self.stack[-1].extend(items)

    def _op_additems(self, _: Any) -> None:
        items = self._since_mark()
        need(type(self._top()) is set, "it adds members to what is no set")
        self.stack[-1].update(as_key(item) for item in items)

    def _op_frozenset(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append(frozenset(as_key(item) for item in items))

    def _op_global(self, argument: str) -> None:
        self._name(argument.replace(" ", ".", 1))

    def _op_stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        need(type(name) is str and type(module) is str, "it imports something that has no name")
        self._name(f"{module}.{name}")

    def _name(self, path: str) -> None:
        if path not in self.builders and path not in self.names:
            raise RefusedError(f"it asks for {shown(path)}, which plain values do not need")
        self.stack.append(Name(path))

    def _op_reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        need(type(function) is Name and type(arguments) is tuple, "it calls something that is no known function")
        builder = self.builders.get(function.path)
        if builder is None:
            raise RefusedError(f"it calls {shown(function.path)}")
        try:
            self.stack.append(builder(*arguments))
        except TypeError:
            raise RefusedError(f"it calls {shown(function.path)} with {len(arguments)} odd arguments") from None

    def _op_build(self, _: Any) -> None:
        state = self._pop()
        target = self._top()
        if type(target) is Dtype:
            build_dtype(target, state)
        elif type(target) is Array:
            build_array(target, state, self.budget)
        else:  # torch keeps version numbers in an attribute of its state dicts: nothing of it is needed
            need(type(target) is OrderedDict and type(state) is dict, "it sets attributes of an object")

    def _op_binpersid(self, _: Any) -> None:
        need(self.persistent is not None, "it refers to something outside the pickle")
        assert self.persistent is not None
        self.stack.append(self.persistent(self._pop()))


class Settler:
    """Turns what a machine built into plain values: every token is resolved, cycles and endless nesting are refused."""

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
            return value, 1
        if id(value) in self.done:
            return self.done[id(value)]
        if id(value) in self.open:
            raise RefusedError("a value contains itself")
        if depth >= MAX_DEPTH:
            raise RefusedError(f"its values are nested more than {MAX_DEPTH} deep")
        self.open.add(id(value))
        members = value.values() if isinstance(value, dict) else value
        walked = [self._walk(member, depth + 1) for member in members]
        size = 1 + sum(count for _, count in walked)
        if size > MAX_VALUES:
            raise RefusedError(f"it unfolds to more than {MAX_VALUES} values")
        plain = [member for member, _ in walked]
        made: Any = type(value)(zip(value, plain, strict=True)) if isinstance(value, dict) else type(value)(plain)
        self.open.discard(id(value))
        self.done[id(value)] = (made, size)
        return made, size

"""A pickle from elsewhere, rewritten so that torch's restricted unpickler meets only names of this package in it.

torch's list of allowed names holds functions that trust their arguments (``bytearray(2**40)``, a hash of a tuple that doubles, a
tensor that reaches outside its storage), and it takes precedence over what a caller allows. So every name is replaced before
torch sees it: a known one by its checked counterpart, any other by an inert token that swallows whatever is done to it.
"""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Container

from mnp_plugin.io.refusal import RefusedError, need, shown

PREFIX = "mnp_plugin.io"
"""Module under which the checked counterparts stand."""
INERT, STORAGE = "<inert>", "<storage>"
"""Names below :data:`PREFIX` that no file can write itself."""
MAX_BYTES = 32 * 2**20
"""Bytes of one pickle. BackdoorBench's largest published files have a few million."""
MAX_STEPS = 1_500_000
"""Opcodes in one pickle; BackdoorBench's largest published files have about a million."""
MAX_OPENED = 500_000
"""Lists, dictionaries and marks in one pickle."""
MAX_NAMES = 2000
"""Names in one pickle, which mentions each once."""
MAX_CALLS = 250_000
"""Calls in one pickle: one for each NumPy number, two for each tensor."""
MAX_TUPLE_KEYS = 4096
"""Keys that are tuples: Python's hashes of tuples of chosen numbers can be made to collide, which costs quadratic time."""

NAME, ORDERED_NAME, ORDERED, DICTIONARY = -1, -2, -3, -4
"""Weights of what the walk must tell from other values: known names, that of OrderedDict, and what these make."""

_LIMITS = {"containers": MAX_OPENED, "calls": MAX_CALLS, "names": MAX_NAMES, "keys that are tuples": MAX_TUPLE_KEYS}

# fmt: off
_PUSHES = {
    pickle.NONE: 0, pickle.NEWTRUE: 0, pickle.NEWFALSE: 0, pickle.EMPTY_DICT: 0, pickle.EMPTY_LIST: 0, pickle.EMPTY_TUPLE: 0,
    pickle.BININT: 4, pickle.BININT1: 1, pickle.BININT2: 2, pickle.BINFLOAT: 8,
}
# fmt: on
_TEXTS = {pickle.BINUNICODE: 4, pickle.SHORT_BINSTRING: 1, pickle.LONG1: 1}
_PUTS, _GETS = {pickle.BINPUT: 1, pickle.LONG_BINPUT: 4}, {pickle.BINGET: 1, pickle.LONG_BINGET: 4}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
_SWALLOWED = {
    pickle.REDUCE: pickle.BUILD,
    pickle.NEWOBJ: pickle.BUILD,
    pickle.APPEND: pickle.BUILD,
    pickle.SETITEM: pickle.TUPLE2 + pickle.BUILD,
    pickle.APPENDS: pickle.TUPLE + pickle.BUILD,
    pickle.SETITEMS: pickle.TUPLE + pickle.BUILD,
}
"""What is done to an inert token, said in such a way that the token is handed it and forgets it."""
_CODE = {"os", "posix", "nt", "sys", "subprocess", "pty", "runpy", "importlib", "shutil", "socket", "ctypes", "webbrowser"}
_CODE_NAMES = {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("eval", "exec", "compile", "open")}


def rewrite(raw: bytes | mmap.mmap, start: int, known: Container[str]) -> tuple[bytes, int]:
    """The pickle at ``raw[start:]`` with every name replaced, and where it ends.

    A name in ``known`` becomes the same name under :data:`PREFIX`; a persistent id becomes a call of :data:`STORAGE`.

    Raises:
        RefusedError: damaged, another protocol than torch's own, too large, or it asks for what only an attack needs.
    """
    try:
        return _Rewriter(raw, start, known).run()
    except (IndexError, KeyError, UnicodeDecodeError):
        raise RefusedError("its pickle is damaged or cut short") from None


class _Rewriter:
    """Walks one pickle and keeps of every value on the stack only a weight.

    The weight of a tuple is the number of values it unfolds to, of an inert token 0, of anything else 1, or a negative one that
    says what it is and counts as 1.
    """

    def __init__(self, raw: bytes | mmap.mmap, start: int, known: Container[str]) -> None:
        self.raw, self.start, self.known = raw, start, known
        self.edits: list[tuple[int, int, bytes]] = []
        self.stack: list[int] = []
        self.marks: list[tuple[list[int], int]] = []
        self.counts = dict.fromkeys(_LIMITS, 0)

    def run(self) -> tuple[bytes, int]:
        raw, place, memo = self.raw, self.start, dict[int, int]()
        tuple_at, of_inert = -1, False  # the tuple on top of the stack, while a persistent id may follow
        for _ in range(MAX_STEPS):
            at, code = place, raw[place : place + 1]
            place += 1
            if code in _PUTS:
                place += _PUTS[code]
                memo[int.from_bytes(raw[at + 1 : place], "little")] = self.stack[-1]
                continue
            begun, tuple_at = tuple_at, -1
            if code in _PUSHES:
                place += _PUSHES[code]
                self.stack.append(DICTIONARY if code == pickle.EMPTY_DICT else 1)
                if code in (pickle.EMPTY_DICT, pickle.EMPTY_LIST):
                    self._count("containers")
            elif code in _GETS:
                place += _GETS[code]
                self.stack.append(memo[int.from_bytes(raw[at + 1 : place], "little")])
            elif code in _TEXTS:
                place += _TEXTS[code]
                size = int.from_bytes(raw[at + 1 : place], "little")
                need(code != pickle.LONG1 or size <= 8, "an integer is absurdly large")
                place += size
                self.stack.append(1)
            elif code == pickle.MARK:
                self._count("containers")
                self.marks.append((self.stack, at))
                self.stack = []
            elif code == pickle.TUPLE:
                items, tuple_at = self._since_mark()
                of_inert = items[1:2] == [0]  # a module of an unknown class, or a storage of one
                self.stack.append(_tuple(items))
            elif code in _TUPLES:
                count = _TUPLES[code]
                if len(self.stack) < count:
                    raise IndexError
                self.stack[-count:] = [_tuple(self.stack[-count:])]
            elif code == pickle.GLOBAL:
                place = self._name(place)
            elif code == pickle.BINPERSID:
                need(begun >= 0, "it refers to something outside the pickle that is no torch storage")
                self._insert(begun, begun, _name(STORAGE))
                self._insert(at, place, pickle.REDUCE)
                self._count("calls")
                self.stack[-1] = 0 if of_inert else 1
            elif code == pickle.STOP:
                need(place <= len(raw), "its pickle is cut short")
                return self._joined(place), place
            elif code == pickle.PROTO:
                protocol = raw[place]
                need(protocol == 2, f"it was saved with pickle protocol {protocol}; save it with torch.save's own, 2")
                place += 1
            else:
                self._change(code, at)
            need(place - self.start <= MAX_BYTES, f"its pickle has more than {MAX_BYTES} bytes")
        raise RefusedError(f"it takes more than {MAX_STEPS} steps to read")

    def _change(self, code: bytes, at: int) -> None:
        """An opcode that does something to the value below its arguments."""
        if code in (pickle.APPENDS, pickle.SETITEMS):
            items, _ = self._since_mark()
        elif code in (pickle.APPEND, pickle.SETITEM, pickle.REDUCE, pickle.NEWOBJ, pickle.BUILD):
            count = 2 if code == pickle.SETITEM else 1
            if len(self.stack) < count:
                raise IndexError
            items = self.stack[-count:]
            del self.stack[-count:]
        else:
            need(not code, "it holds what torch.save does not write (an unknown pickle opcode)")
            raise IndexError
        if self.stack[-1] == 0:
            if code in _SWALLOWED:
                self._insert(at, at + 1, _SWALLOWED[code])
            return
        need(code != pickle.NEWOBJ, "it asks to make an object of a class in a way that plain values do not need")
        if code == pickle.REDUCE:
            called = self.stack[-1]  # torch's message would show anything else, and unfold it for that
            need(called in (NAME, ORDERED_NAME), "it calls what is no function")
            self._count("calls")
            self.stack[-1] = ORDERED if called == ORDERED_NAME else 1
        elif code == pickle.BUILD and self.stack[-1] == ORDERED:  # a list of pairs would have keys, too, unseen
            need(items[0] in (DICTIONARY, ORDERED), "the attributes of a dictionary are no dictionary")
        elif code in (pickle.SETITEM, pickle.SETITEMS):
            keys = [weight for weight in items[::2] if weight > 1]
            need(max(keys, default=0) <= 64, "a key is a large tuple")
            self._count("keys that are tuples", len(keys))

    def _since_mark(self) -> tuple[list[int], int]:
        items = self.stack
        self.stack, at = self.marks.pop()
        return items, at

    def _count(self, what: str, more: int = 1) -> None:
        self.counts[what] += more
        need(self.counts[what] <= _LIMITS[what], f"it has more than {_LIMITS[what]} {what}")

    def _name(self, place: int) -> int:
        middle = self.raw.find(b"\n", place, place + 300)
        end = self.raw.find(b"\n", middle + 1, middle + 300)
        need(0 <= middle < end, "its pickle is damaged or cut short")
        module, name = (part.decode() for part in (self.raw[place:middle], self.raw[middle + 1 : end]))
        path = f"{module}.{name}"
        self._count("names")
        if path in self.known:
            self._insert(place - 1, end + 1, _name(path))
            self.stack.append(ORDERED_NAME if path == "collections.OrderedDict" else NAME)
        else:
            dangerous = module.partition(".")[0] in _CODE or path in _CODE_NAMES
            need(not dangerous, f"it asks for {shown(path)}, which no checkpoint needs: it may be malicious")
            text = path.encode()
            token = _name(INERT) + pickle.BINUNICODE + len(text).to_bytes(4, "little") + text + pickle.TUPLE1 + pickle.REDUCE
            self._insert(place - 1, end + 1, token)
            self.stack.append(0)
        return end + 1

    def _insert(self, start: int, end: int, new: bytes) -> None:
        self.edits.append((start, end, new))

    def _joined(self, end: int) -> bytes:
        parts, copied = [], self.start
        for first, last, new in sorted(self.edits):
            parts += [self.raw[copied:first], new]
            copied = last
        return b"".join([*parts, self.raw[copied:end]])


def _name(path: str) -> bytes:
    return pickle.GLOBAL + f"{PREFIX}\n{path}\n".encode()


def _tuple(items: list[int]) -> int:
    return min(1 + sum(1 if item < 0 else item for item in items), 2**32)

"""Files that try to execute, import, build, claim or reach what they must not: each ends in one UserError, nothing runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import resource
import struct
import sys
import time
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from mnp_plugin.core.errors import UserError
from mnp_plugin.io.safe import inside, read_array, read_plain, read_tensors, weights_into

CANARY = "MNP_PLUGIN_CANARY"


@pytest.fixture
def cage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as working directory: whatever a payload does, it does here, and the folder shows it."""
    folder = tmp_path / "cage"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv(CANARY, raising=False)
    return folder


def executed(cage: Path) -> bool:
    return bool(list(cage.iterdir())) or CANARY in os.environ


# ------------------------------------------------------------------------------------------------------ pickles, by opcode


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(path: str) -> bytes:
    module, _, attribute = path.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def stack_name(path: str) -> bytes:
    module, _, attribute = path.rpartition(".")
    return text(module) + text(attribute) + b"\x93"


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def many(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + many(*arguments) + b"R"


class Evil:
    """Creates a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("canary",)


CODE = f"__import__('os').environ.__setitem__('{CANARY}', '1')"
CALLABLES = [
    "os.system", "posix.system", "nt.system", "os.mkdir", "os.popen", "os.putenv", "os.execv", "subprocess.call",
    "subprocess.Popen", "subprocess.check_output", "builtins.eval", "builtins.exec", "builtins.compile", "builtins.getattr",
    "builtins.setattr", "builtins.__import__", "builtins.open", "builtins.map", "builtins.type", "builtins.breakpoint",
    "builtins.object", "builtins.globals", "builtins.dict", "builtins.str", "__builtin__.eval", "__builtin__.file",
    "__main__.main", "sys.exit", "functools.partial", "functools.reduce", "operator.attrgetter", "operator.methodcaller",
    "types.FunctionType", "types.CodeType", "importlib.import_module", "runpy.run_path", "pickle.loads", "_pickle.loads",
    "copyreg._reconstructor", "copyreg.__newobj__", "copyreg.add_extension", "codecs.encode", "codecs.open", "_codecs.decode",
    "_codecs.lookup", "_codecs.register", "collections.defaultdict", "collections.Counter", "collections.OrderedDict.pop",
    "pathlib.Path", "shutil.rmtree", "ctypes.CDLL", "socket.create_connection", "webbrowser.open", "tempfile.mkdtemp",
    "numpy.load", "numpy.memmap", "numpy.fromfile", "numpy.frombuffer", "numpy.ndarray", "numpy.matrix",
    "numpy.dtypes.ObjectDType",
    "numpy.core.multiarray._reconstruct.__globals__", "numpy._core.multiarray.fromfile", "numpy.f2py.compile",
    "numpy.testing._private.utils.runstring", "torch.load", "torch.hub.load", "torch.jit.load", "torch.compile",
    "torch.FloatStorage", "torch.storage._load_from_bytes", "torch.storage.UntypedStorage", "torch.serialization.load",
    "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor", "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_meta_tensor_no_storage", "torch._utils._rebuild_wrapper_subclass", "torch._utils._import_dotted_name",
    "torch._tensor._rebuild_from_type_v2", "torch.utils.cpp_extension.load", "torch.nn.Linear", "torch.nn.modules.linear.Linear",
    "torch.device", "torch.float32", "PIL.Image.open", "PIL.Image.Image", "argparse.Namespace",
    "mnp_plugin.io.atomic.write_atomic",
]  # fmt: skip

ODICT = call(name("collections.OrderedDict"))
NDARRAY = call(name("numpy.core.multiarray._reconstruct"), name("numpy.ndarray"), many(number(0)), text("b"))


def encoded(raw: str) -> bytes:
    return call(name("_codecs.encode"), text(raw), text("latin1"))


def dtype(spec: str, *state: bytes) -> bytes:
    made = call(name("numpy.dtype"), text(spec), number(0), number(1))
    return made + many(*state) + b"b" if state else made


I8 = dtype("i8")


def array(shape: bytes, kind: bytes = I8, raw: bytes | None = None, start: bytes = NDARRAY) -> bytes:
    return start + many(number(1), shape, kind, b"\x89", raw if raw is not None else encoded("\0" * 8)) + b"b"


def storage(kind: str = "torch.FloatStorage", key: bytes = text("0"), numel: bytes = number(6), *rest: bytes) -> bytes:
    return many(text("storage"), name(kind), key, text("cpu"), numel, *rest) + b"Q"


def tensor(
    store: bytes | None = None,
    offset: bytes = number(0),
    shape: bytes = many(number(2), number(3)),
    stride: bytes = many(number(3), number(1)),
    *rest: bytes,
) -> bytes:
    rest = rest or (b"\x89", ODICT)
    return call(name("torch._utils._rebuild_tensor_v2"), store or storage(), offset, shape, stride, *rest)


def pickles() -> Iterator[tuple[str, bytes]]:
    """(what it tries, a pickle)."""
    for protocol in range(6):
        yield f"reduce, protocol {protocol}", pickle.dumps(Evil(), protocol)
        yield f"reduce in a dict, protocol {protocol}", pickle.dumps({"model": {"w": Evil()}}, protocol)
    for path in CALLABLES:
        argument = text(CODE if path.endswith(("eval", "exec")) else "mkdir canary" if "system" in path else "canary")
        yield f"call {path}", call(name(path), argument) + b"."
        yield f"call {path} by stack", b"\x80\x04" + call(stack_name(path), argument) + b"."
        yield f"store {path}", b"(" + text("w") + name(path) + b"d."
        yield f"instance {path}", b"(" + argument + b"i" + name(path)[1:] + b"."
        yield f"object {path}", b"(" + name(path) + argument + b"o."
        yield f"new object {path}", name(path) + argument + b"\x85\x81."
        yield f"new object with keywords {path}", name(path) + b")}\x92."
    yield "getattr chain", call(call(name("builtins.getattr"), name("os"), text("system")), text("mkdir canary")) + b"."
    yield "dotted stack name", call(stack_name("collections.OrderedDict.fromkeys"), text("x")) + b"."
    yield "name with spaces", b"cos\nsystem mkdir\n."
    yield "nameless import", number(1) + number(2) + b"\x93."
    for code in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"):
        yield f"extension {code!r}", code + b"."
    yield "persistent id as text", b"Pos.system\n."
    yield "persistent id of another kind", many(text("module"), name("torch.FloatStorage"), text("f"), text("source")) + b"Q."
    yield "persistent id no tuple", text("storage") + b"Q."
    yield "persistent id not a storage type", storage("collections.OrderedDict") + b"."
    yield "bare storage", storage() + b"."
    yield "call of a text", call(text("os.system"), text("mkdir canary")) + b"."
    yield "call of a result", call(encoded("x"), text("y")) + b"."
    yield "call of a class that may be named", call(name("numpy.ndarray"), many(number(5))) + b"."
    yield "call of a storage type", call(name("torch.FloatStorage"), number(2**40)) + b"."
    yield "call without a tuple", name("collections.OrderedDict") + b"]R."
    yield "allowed class as new object", name("collections.OrderedDict") + b")\x81."
    yield "ordered dict of a generator", call(name("collections.OrderedDict"), text("ab")) + b"."
    for target in (b"]", b"}", b")", text("x"), number(1), name("collections.OrderedDict"), b"\x8f", tensor()):
        yield f"attributes of {target[:20]!r}", target + b"}" + text("__class__") + number(1) + b"sb."
    yield "slot attributes", ODICT + b"N}" + text("__class__") + number(1) + b"s\x86b."
    yield "out of band buffer", b"\x80\x05\x97."
    yield "read-only buffer", b"\x80\x05\x97\x98."
    yield "protocol 6", b"\x80\x06N."
    # abuse of what is allowed
    yield "encode to zip", call(name("_codecs.encode"), text("x"), text("zip")) + b"."
    yield "encode of bytes", call(name("_codecs.encode"), encoded("x"), text("latin1")) + b"."
    yield "encode with a handler", call(name("_codecs.encode"), text("x"), text("latin1"), text("strict")) + b"."
    yield "encode what is not latin-1", encoded("\u1234") + b"."
    for module in ("builtins", "__builtin__"):
        yield f"{module} bytes bomb", call(name(f"{module}.bytes"), number(2**40)) + b"."
        yield f"{module} bytearray bomb", call(name(f"{module}.bytearray"), number(2**40)) + b"."
        yield f"{module} set of a text", call(name(f"{module}.set"), text("ab")) + b"."
    yield "set of lists", call(name("builtins.set"), b"(]l") + b"."
    yield "torch.Size bomb", call(name("torch.Size"), text("ab")) + b"."
    yield "torch.Size of negatives", call(name("torch.Size"), many(number(-1))) + b"."
    yield (
        "amplified text",
        text("x" * 10000) + b"q\x000" + b"(" + call(name("_codecs.encode"), b"h\x00", text("latin1")) * 2000 + b"l.",
    )
    # NumPy
    for spec in ("O", "O8", "|O", "V8", "M8[s]", "i8,i8", "object", "f16", "S9999999", "(2,)i8", "<i3", "", "?,O"):
        yield f"array of dtype {spec}", array(many(number(1)), dtype(spec)) + b"."
        yield f"scalar of dtype {spec}", call(name("numpy.core.multiarray.scalar"), dtype(spec), encoded("\0" * 8)) + b"."
    yield "dtype of a class", call(name("numpy.dtype"), name("numpy.ndarray"), number(0), number(1)) + b"."
    yield "bare dtype", I8 + b"."
    none = b"N"
    plain = [number(3), text("<"), none, none, none, number(-1), number(-1), number(0)]
    for index, odd in [(0, number(9)), (1, text("?")), (1, none), (2, many(I8, many(number(2)))), (3, many(text("a"))),
                       (4, b"}"), (7, number(63)), (7, number(1)), (7, text("x"))]:  # fmt: skip
        state = [*plain[:index], odd, *plain[index + 1 :]]
        yield f"dtype state {index} {odd[:9]!r}", array(many(number(1)), dtype("i8", *state)) + b"."
    yield "dtype with metadata", array(many(number(1)), dtype("i8", *plain, b"}" + text("a") + number(1) + b"s")) + b"."
    yield "array of objects as a list", array(many(number(1)), raw=b"(" + number(1) + b"l") + b"."
    for shape in ([-1], [2], [2**62], [2**62, 4, 2], [0, 2**70], [1] * 33, [1, -1, -1]):
        yield f"array of shape {shape}", array(many(*map(number, shape))) + b"."
    yield "array of a text shape", array(text("1")) + b"."
    yield "array of a bool shape", array(many(b"\x88")) + b"."
    yield "array of a float shape", array(many(b"F1.0\n")) + b"."
    yield "array filled twice", array(many(number(1)), start=array(many(number(1)))) + b"."
    yield "array never filled", NDARRAY + b"."
    yield "array of another class", call(
        name("numpy.core.multiarray._reconstruct"), name("collections.OrderedDict"), many(number(0)), text("b")
    ) + b"."  # fmt: skip
    yield "array that allocates", call(
        name("numpy.core.multiarray._reconstruct"), name("numpy.ndarray"), many(number(2**40)), text("b")
    ) + b"."  # fmt: skip
    yield "array with an odd state", NDARRAY + many(number(1)) + b"b."
    yield "array that is no text", array(many(number(1)), dtype("U2"), encoded("\xff" * 8)) + b"."
    yield "array of odd bools", array(many(number(8)), dtype("b1"), encoded("\x07" * 8)) + b"."
    yield "array of empty texts", array(many(number(2**40)), dtype("S0"), encoded("")) + b"."
    yield "scalar of odd size", call(name("numpy.core.multiarray.scalar"), I8, encoded("\0" * 7)) + b"."
    yield "scalar of nothing", call(name("numpy.core.multiarray.scalar"), number(1), encoded("\0" * 8)) + b"."
    buffer = name("numpy._core.numeric._frombuffer")
    yield "buffer of odd order", call(buffer, encoded("\0" * 8), I8, many(number(1)), text("K")) + b"."
    yield "buffer of odd size", call(buffer, encoded("\0" * 8), I8, many(number(9)), text("C")) + b"."
    yield "amplified array", encoded("x" * 8000) + b"q\x000(" + array(many(number(1000)), raw=b"h\x00") * 2000 + b"l."
    # torch
    yield "storage too large for its record", tensor(storage(numel=number(7))) + b"."
    yield (
        "storage too small for its record",
        tensor(storage(numel=number(5)), shape=many(number(5)), stride=many(number(1))) + b".",
    )
    yield "storage of negative size", tensor(storage(numel=number(-6))) + b"."
    yield "storage of another width", tensor(storage("torch.DoubleStorage")) + b"."
    yield "storage that is not there", tensor(storage(key=text("99"))) + b"."
    yield "storage outside the data", tensor(storage(key=text("../data.pkl"))) + b"."
    yield "storage key no text", tensor(storage(key=number(0))) + b"."
    yield (
        "storage view",
        tensor(storage("torch.FloatStorage", text("0"), number(6), many(text("1"), number(0), number(6)))) + b".",
    )
    yield "quantised storage", tensor(storage("torch.QInt8Storage")) + b"."
    yield "tensor of a name", tensor(name("torch.FloatStorage")) + b"."
    yield "tensor of a tensor", tensor(tensor()) + b"."
    yield "offset negative", tensor(offset=number(-1)) + b"."
    yield "offset beyond", tensor(offset=number(1)) + b"."
    yield "offset no number", tensor(offset=text("0")) + b"."
    for shape, stride in [
        ([2, 3], [-3, 1]), ([2, 3], [3]), ([2, 3], [3, 2]), ([2, 3], [2**62, 1]), ([-2, 3], [3, 1]), ([2**40], [0]),
        ([2**62, 4], [0, 0]), ([7], [1]), ([2**80], [1]), ([1] * 17, [1] * 17), ([12], [0]),
    ]:  # fmt: skip
        yield (
            f"tensor {shape} strides {stride}",
            tensor(shape=many(*map(number, shape)), stride=many(*map(number, stride))) + b".",
        )
    hooks = ODICT + text("hook") + name("collections.OrderedDict") + b"s"
    yield "tensor with hooks", tensor(None, number(0), many(number(6)), many(number(1)), b"\x89", hooks) + b"."
    yield "tensor with metadata", tensor(None, number(0), many(number(6)), many(number(1)), b"\x89", ODICT, b"}") + b"."
    parameter = name("torch._utils._rebuild_parameter")
    yield "parameter of a text", call(parameter, text("x"), b"\x88", ODICT) + b"."
    yield "parameter with hooks", call(parameter, tensor(), b"\x88", hooks) + b"."
    # structure
    yield "list in itself", b"]q\x00h\x00a."
    yield "dict in itself", b"}q\x00" + text("a") + b"h\x00s."
    yield "tuple in itself", b"]q\x00(h\x00tq\x010h\x01a."
    yield "a thousand deep", b"(" * 1000 + b"t" * 1000 + b"."
    yield "a hundred thousand deep", b"]" * 100_000 + b"a" * 99_999 + b"."
    yield "lists that double", b"]" + b"".join(b"q%c(h%ch%cl" % (i, i, i) for i in range(60)) + b"."
    yield "keys that double", b"}" + b")" + b"2\x86" * 60 + b"Ns."
    yield "list as key", b"}]Ns."
    yield "dict as member", b"\x8f(}\x90."
    yield "name as key", b"}" + name("collections.OrderedDict") + b"Ns."
    yield "items into a list", b"]NNs."
    yield "append to a dict", b"}Na."
    yield "members into a list", b"](N\x90."
    yield "key without value", b"(Nd."
    yield "pop of nothing", b"0."
    yield "stop with nothing", b"."
    yield "mark that is not there", b"t."
    yield "value that is not stored", b"h\x05."
    yield "store of nothing", b"q\x05."
    yield "no end", b"N"
    yield "unknown opcode", b"\xff."
    yield "text longer than the file", b"X\xff\xff\xff\xffabc."
    yield "text of 2**62 bytes", b"\x8d" + struct.pack("<Q", 2**62) + b"abc."
    yield "bytes of 2**62 bytes", b"\x8e" + struct.pack("<Q", 2**62) + b"abc."
    yield "bytearray of 2**62 bytes", b"\x96" + struct.pack("<Q", 2**62) + b"abc."
    yield "text that is no UTF-8", b"X\x02\x00\x00\x00\xff\xfe."
    yield "escape that is none", b"S'\\x4'\n."
    yield "huge integer", b"\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000 + b"."
    yield "huge decimal", b"L" + b"9" * 5000 + b"L\n."
    yield "long decimal", b"I" + b"9" * 100 + b"\n."
    yield "negative length", b"\x8b" + struct.pack("<i", -1) + b"."


def doubled(start: bytes, levels: int) -> bytes:
    """A tuple that unfolds to 2**levels values."""
    return start + b"".join(b"r" + struct.pack("<I", i) + b"j" + struct.pack("<I", i) + b"\x86" for i in range(100, 100 + levels))


def bombs() -> Iterator[tuple[str, bytes]]:
    """(what it costs an unguarded reader, a pickle of protocol 2 that is short beside that)."""
    one, prime, many_values = number(1), 2**61 - 1, b"(" + b"K\x01K\x02\x86" * 100_000 + b"e"
    yield "kind of a storage", many(text("storage"), doubled(one, 40), text("0"), text("cpu"), one) + b"Q."
    yield "size of a storage", many(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), doubled(one, 40)) + b"Q."
    yield "state of an object", name("collections.OrderedDict") + b")R" + doubled(one, 40) + b"b."
    pairs = b"]" + doubled(one, 40) + b"N\x86a"
    yield "state of an object that is a list", name("collections.OrderedDict") + b")R" + pairs + b"b."
    yield "state of an object that holds lists", name("collections.OrderedDict") + b")R(]" + doubled(one, 40) + b"aNatb."
    yield "offset", tensor(offset=doubled(one, 40)) + b"."
    yield "shape", tensor(shape=doubled(one, 40)) + b"."
    yield "hooks", tensor(None, number(0), many(), many(), b"\x89", doubled(one, 40)) + b"."
    yield "dtype", call(name("numpy.dtype"), doubled(one, 40), number(0), number(1)) + b"."
    yield "byte order", dtype("i8", number(3), doubled(one, 40), b"N", b"N", b"N", number(-1), number(-1), number(0)) + b"."
    yield "array class", call(name("numpy.core.multiarray._reconstruct"), doubled(one, 40), many(number(0)), text("b")) + b"."
    yield "array state", array(doubled(one, 40)) + b"."
    yield "key", b"}" + doubled(one, 60) + b"Ns."
    yield "flat key", b"}" + doubled(one, 6) + b"Ns."
    yield "deep key", b"})" + b"\x85" * 100_000 + b"Ns."
    yield "what is called", doubled(one, 40) + b")R."
    yield "in a list that is called", b"]" + doubled(one, 40) + b"a)R."
    yield "member of a set", call(name("builtins.set"), b"]" + doubled(one, 60) + b"a") + b"."
    yield "member of a frozenset", call(name("builtins.frozenset"), b"]" + doubled(one, 60) + b"a") + b"."
    yield "integers of one hash", b"}(" + b"".join(number(prime * i) + b"N" for i in range(40_000)) + b"u."
    yield "many tuple keys", b"}(" + b"".join(number(i) + b"\x85N" for i in range(40_000)) + b"u."
    yield "dictionaries", b"(" + b"}" * 19_000_000 + b"t."
    yield "sets", b"(" + b"\x8f" * 19_000_000 + b"t."
    yield "lists", b"(" + b"]" * 499_000 + b"a."
    yield "marks", b"(" * 1_400_000 + b"."
    yield "memory of names", b"N" + b"".join(b"r" + struct.pack("<I", i * 2000) for i in range(1_600_000)) + b"."
    yield "ordered dictionaries", name("collections.OrderedDict") + b"q\x00(" + b"h\x00)R" * 260_000 + b"t."
    yield (
        "NumPy numbers",
        name("numpy.core.multiarray.scalar")
        + b"q\x00"
        + I8
        + encoded("\0" * 8)
        + b"\x86q\x01("
        + (b"h\x00h\x01R" * 240_000 + b"t."),
    )
    yield (
        "views",
        name("torch._utils._rebuild_tensor_v2")
        + b"q\x00"
        + many(storage(), number(0), many(number(6)), many(number(1)), b"\x89", ODICT)
        + b"q\x01("
        + b"h\x00h\x01R" * 240_000
        + b"t.",
    )
    yield "names", b"(" + b"".join(b"cfoo\nbar%d\n" % i for i in range(100_000)) + b"t."
    yield (
        "copies of a dictionary",
        b"]q\x00" + many_values + name("collections.OrderedDict") + b"q\x01(" + (b"h\x01h\x00\x85R" * 10_000 + b"t."),
    )
    yield "copies of a set", b"]q\x00" + many_values + name("builtins.set") + b"q\x01(" + b"h\x01h\x00\x85R" * 10_000 + b"t."
    yield "bytearray", call(name("builtins.bytearray"), number(2**40)) + b"."
    yield "slow codec", call(name("_codecs.encode"), text("x." * 1_000_000), text("idna")) + b"."
    yield "text of 40 MB", text("x" * 40_000_000) + b"."


@contextlib.contextmanager
def more_memory_at_most(size: int) -> Iterator[None]:
    """Allocations beyond ``size`` bytes more than now are a MemoryError."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def untraced() -> Iterator[None]:
    """No coverage meanwhile: it makes the readers' loops three times as slow as they are.

    The marker ``no_cover`` of pytest-cov does not reach that far in a process of pytest-xdist, where two coverages run.
    """
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)


@pytest.mark.thorough
@pytest.mark.usefixtures("untraced")
def test_no_small_file_costs_much_time_or_memory(tmp_path: Path) -> None:
    """At most three times what an ordinary file of 2.5 MB takes: five seconds where that takes 1.6."""
    path = tmp_path / "bomb.pt"
    path.write_bytes(zipped(pickle.dumps([(i,) for i in range(240_000)], 2)))
    start = time.process_time()
    read_plain(path)
    ordinary = time.process_time() - start
    slow, large = {}, []
    for title, raw in bombs():
        path.write_bytes(zipped(b"\x80\x02" + raw))
        for read in (read_plain, read_tensors):
            start = time.process_time()
            with more_memory_at_most(500 * 2**20):
                said = refusal(read, path)
            slow[title] = max(slow.get(title, 0.0), time.process_time() - start)
            if said is not None and ("Memory" in said or "memory" in said):
                large.append((title, said))
    assert large == []
    assert {title: seconds for title, seconds in slow.items() if seconds > 3 * ordinary} == {}


def headed(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": {"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 4]}}, "more than 16 dimensions"),
        ({f"{i:09}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}, "its header has"),
    ],
    ids=["dimensions", "names"],
)
def test_a_costly_header_of_safetensors_is_refused(header: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(headed(header, bytes(4)))
    start = time.process_time()
    with pytest.raises(UserError, match=reason):
        read_tensors(path)
    assert time.process_time() - start < 2


def test_a_tensor_under_many_names_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, looked = torch.ones(1000), []
    torch.save({f"t{i}": one for i in range(50)} | {"other": torch.full((3,), 2.0)}, tmp_path / "x.pt")
    whole = torch.isfinite
    monkeypatch.setattr(torch, "isfinite", lambda value: looked.append(len(value)) or whole(value))
    assert len(read_tensors(tmp_path / "x.pt")) == 51
    assert sorted(looked) == [3, 1000]
    torch.save({"a": one, "b": torch.tensor([1.0, float("nan")])}, tmp_path / "y.pt")
    with pytest.raises(UserError, match="'b' holds values that are not finite"):
        read_tensors(tmp_path / "y.pt")


def test_the_bombs_are_live() -> None:
    """Python's own unpickler takes eight times as long for a key of three more levels."""
    seconds = []
    for levels in (20, 23):
        start = time.process_time()
        pickle.loads(b"\x80\x02}" + doubled(number(1), levels) + b"Ns.")
        seconds.append(time.process_time() - start)
    assert seconds[1] > 3 * seconds[0]


# ------------------------------------------------------------------------------------------------------------- containers

RECORD = struct.pack("<6f", *range(6))
VALID = b"}" + text("w") + tensor() + b"s."


def zipped(data: bytes, records: dict[str, bytes] | None = None, *, compress: bool = False, **extra: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        parts = {"data.pkl": data, "version": b"3\n", "byteorder": b"little", "data/0": RECORD, **extra}
        for key, raw in {**parts, **(records or {})}.items():
            archive.writestr(f"archive/{key}", raw)
    return stream.getvalue()


def legacy(data: bytes, *, magic: int = 0x1950A86A20F9469CFC6C, protocol: int = 1001, little: bool = True,
           keys: object = ("0",), head: int = 6) -> bytes:  # fmt: skip
    parts = [pickle.dumps(part, 2) for part in (magic, protocol, {"little_endian": little})]
    listed = pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2)
    return b"".join(parts) + b"\x80\x02" + data + listed + struct.pack("<q", head) + RECORD


def containers() -> Iterator[tuple[str, bytes]]:
    """(what is wrong with it, a file that is no sound torch file)."""
    good = zipped(VALID)
    yield "empty file", b""
    yield "text", b"Hello, these are no weights.\n"
    yield "html", b"<!doctype html><title>404</title>"
    yield "gzip", b"\x1f\x8b\x08\x00" + bytes(40)
    yield "tar", b"archive/data.pkl".ljust(257, b"\0") + b"ustar\0" + bytes(300)
    yield "zeros", bytes(4096)
    yield "bare numbers", RECORD
    yield "zip bomb", zipped(VALID, {"data/0": bytes(10_000_000)}, compress=True)
    yield "compressed", zipped(VALID, compress=True)
    yield "no pickle", zipped(VALID).replace(b"data.pkl", b"date.pkl")
    yield "two pickles", _append(good, "other/data.pkl", VALID)
    yield "same name twice", _append(good, "archive/data/0", RECORD)
    yield "script", zipped(VALID, {"constants.pkl": VALID, "code/__torch__.py": b"import os"})
    yield "big-endian", zipped(VALID, byteorder=b"big")
    yield "too many records", zipped(VALID, {f"data/{i}": b"" for i in range(1, 20_100)})
    yield "missing record", zipped(VALID).replace(b"data/0", b"data/1")
    yield "encrypted", _patched(good, b"PK\x01\x02", 8, b"\x01\x00")
    yield "claims another size", _patched(good, b"PK\x01\x02", 24, b"\xff\xff\xff\x7f")
    yield "overlapping records", _patched(good, b"PK\x01\x02", 20, struct.pack("<II", len(good), len(good)))
    yield "huge table of contents", _patched(good, b"PK\x05\x06", 12, b"\xff\xff\xff\x7f")
    yield "table of contents elsewhere", _patched(good, b"PK\x05\x06", 16, b"\xff\xff\xff\x7f")
    view = tensor(storage(numel=number(25_000)), shape=many(number(25_000)), stride=many(number(1)))
    yield "amplified tensors", zipped(b"(" + view * 200 + b"l.", {"data/0": bytes(100_000)})
    old = legacy(VALID)
    yield "legacy with other magic", legacy(VALID, magic=7)
    yield "legacy with other protocol", legacy(VALID, protocol=7)
    yield "legacy big-endian", legacy(VALID, little=False)
    yield "legacy keys of nothing", legacy(VALID, keys=("7",))
    yield "legacy keys twice", legacy(VALID, keys=("0", "0"))
    yield "legacy keys no list", legacy(VALID, keys=5)
    yield "legacy without keys", legacy(VALID, keys=())
    yield "legacy size", legacy(VALID, head=7)
    yield "legacy negative size", legacy(VALID, head=-6)
    for content, kind in ((good, "zip"), (old, "legacy")):
        for share in range(1, 20):
            yield f"{kind} cut at {share}/20", content[: len(content) * share // 20]
        yield f"{kind} cut by a byte", content[:-1]
    for place in range(0, len(VALID), 8):
        flipped = bytearray(good)
        flipped[good.index(VALID) + place] ^= 0x10
        yield f"bit flipped at {place}", bytes(flipped)
    flipped = bytearray(good)
    flipped[good.index(RECORD) + 5] ^= 0x10
    yield "bit flipped in the numbers", bytes(flipped)


def _append(content: bytes, record: str, raw: bytes) -> bytes:
    stream = io.BytesIO(content)
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "a") as archive:
        warnings.simplefilter("ignore")  # of the name that stands twice
        archive.writestr(record, raw)
    return stream.getvalue()


def _patched(content: bytes, mark: bytes, offset: int, new: bytes) -> bytes:
    place = content.index(mark) + offset
    return content[:place] + new + content[place + len(new) :]


def safetensors() -> Iterator[tuple[str, bytes]]:
    """(what is wrong with it, a file that is no sound safetensors file)."""
    good = save_safetensors({"w": torch.ones(2, 3)})

    def made(header: bytes, data: bytes = bytes(24)) -> bytes:
        return struct.pack("<Q", len(header)) + header + data

    yield "empty", b""
    yield "short", b"\x01\x02"
    yield "header longer than the file", struct.pack("<Q", 10**6) + good[8:]
    yield "header of 2**63", struct.pack("<Q", 2**63) + good[8:]
    yield "header that is no JSON", made(b"nonsense")
    yield "header that is a list", made(b"[1, 2]")
    yield "header deep", made(b'{"a":' * 5000 + b"1" + b"}" * 5000)
    for dtype_, shape, offsets in [
        ("F32", [2, 3], [0, 20]), ("F32", [2, 3], [0, 48]), ("F32", [2**40], [0, 24]), ("X9", [6], [0, 24]),
        ("BOOL", [6], [0, 24]), ("F32", [2**62, 8], [0, 24]), ("F32", [6], [24, 0]), ("F32", [6], [8, 32]),
    ]:  # fmt: skip
        yield (
            f"{dtype_} {shape} {offsets}",
            made(f'{{"w":{{"dtype":"{dtype_}","shape":{shape},"data_offsets":{offsets}}}}}'.encode()),
        )
    yield "negative shape", made(b'{"w":{"dtype":"F32","shape":[-6],"data_offsets":[0,24]}}')
    twice = b'"dtype":"F32","shape":[6],"data_offsets":[0,24]'
    yield "overlapping tensors", made(b'{"a":{' + twice + b'},"b":{' + twice + b"}}")
    yield "no tensor", made(b"{}", b"")
    yield "a pickle", pickle.dumps(Evil())
    for share in range(1, 10):
        yield f"cut at {share}/10", good[: len(good) * share // 10]
    yield "NaN", save_safetensors({"w": torch.tensor([1.0, float("nan")])})
    yield "infinite", save_safetensors({"w": torch.tensor([1.0, float("-inf")])})


def npy() -> Iterator[tuple[str, bytes]]:
    """(what is wrong with it, a file that is no sound array)."""

    def made(header: str, data: bytes = bytes(8)) -> bytes:
        raw = header.encode()
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + data

    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)
    yield "objects", stream.getvalue()
    yield "code in the header", made(f"{{'descr': {CODE}, 'fortran_order': False, 'shape': (1,)}}\n")
    for descr, shape in [
        ("'<i8'", "(2,)"), ("'<i8'", "(-1,)"), ("'<i8'", "(4611686018427387904,)"), ("'|O'", "(1,)"), ("'<U2'", "(1,)"),
        ("[('a', '<i8')]", "(1,)"), ("'<M8[s]'", "(1,)"), ("'<i8'", "1"), ("'nonsense'", "(1,)"),
    ]:  # fmt: skip
        yield f"{descr} {shape}", made(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n")
    yield "header deep", made("(" * 500 + ")" * 500)
    yield "unknown version", b"\x93NUMPY\x09\x00" + bytes(50)
    yield "text", b"1 2 3\n"
    yield "empty", b""


HARMLESS = {
    "call without a tuple": "OrderedDict called with an empty list: an empty OrderedDict",
    "tensor [12] strides [0]": "an expanded tensor of 12 values, all of them the one that the file has",
}
"""Files that need not be refused, and as which inert value they are read."""


def refusal(read: Callable[[Path], object], path: Path) -> str | None:
    """What the reader says of ``path``; None if it read it. Anything but a UserError is a failure of the test."""
    try:
        read(path)
    except UserError as error:
        return str(error)
    return None


def corpus() -> Iterator[tuple[str, str, bytes, tuple[Callable[[Path], object], ...]]]:
    """(title, ending, content, the doors it knocks at)."""
    both = (read_plain, read_tensors)
    for title, raw in pickles():
        yield f"zip: {title}", ".pt", zipped(raw), both
        yield f"legacy: {title}", ".th", legacy(raw, keys=("0",) if b"storage" in raw else ()), both
        yield f"bare: {title}", ".pkl", raw, both
    for title, raw in containers():
        yield title, ".pt", raw, both
    for title, raw in safetensors():
        yield f"safetensors: {title}", ".safetensors", raw, (read_tensors,)
    for title, raw in npy():
        yield f"npy: {title}", ".npy", raw, (read_array,)


def test_every_file_of_the_corpus_is_refused_or_inert_and_nothing_runs(
    tmp_path: Path, cage: Path, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    count, let_in, silent = 0, [], []
    for title, ending, content, doors in corpus():
        path = tmp_path / f"{count}{ending}"
        path.write_bytes(content)
        for read in doors:
            said = refusal(read, path)
            if said is None:
                let_in.append(title.partition(": ")[2])
            elif str(path) not in said or len(said) < len(str(path)) + 12 or "\n" in said:
                silent.append((title, said))
        path.unlink()
        count += 1
        assert not executed(cage), title
    assert set(let_in) == set(HARMLESS)
    assert silent == []
    record_property("malicious files", count)
    with capsys.disabled():
        harmless = len(let_in)
        print(f"\n{count} malicious files: {count - harmless} refused, {harmless} read as inert values, 0 executed, 0 tracebacks")
    assert count > 1000


def test_the_payloads_are_live(cage: Path) -> None:
    """The corpus could prove nothing if Python's own unpickler were not fooled by it."""
    samples = dict(pickles())
    live = ["reduce, protocol 0", "reduce, protocol 5", "call os.system", "call builtins.exec by stack", "instance os.mkdir",
            "object os.mkdir"]  # fmt: skip
    for title in live:
        pickle.loads(samples[title])
        assert executed(cage), title
        os.environ.pop(CANARY, None)
        for made in cage.iterdir():
            made.rmdir()


def test_the_corpus_differs_from_sound_files_by_its_fault_alone(tmp_path: Path) -> None:
    whole = tensor(
        storage("torch.FloatStorage", text("0"), number(6), b"N")
    )  # torch.load wants the view, none, in the old format
    for content in (zipped(VALID), legacy(b"}" + text("w") + whole + b"s.")):
        path = tmp_path / "good.pt"
        path.write_bytes(content)
        assert torch.equal(read_tensors(path)["w"], torch.arange(6.0).reshape(2, 3))
        assert torch.equal(torch.load(path, weights_only=True)["w"], torch.arange(6.0).reshape(2, 3))
    path.write_bytes(zipped(array(many(number(1))) + b"."))
    assert read_plain(path) == np.zeros(1, np.int64)


def test_attributes_of_a_state_dict_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "attributes.pt"
    path.write_bytes(zipped(ODICT + b"}" + text("__class__") + number(1) + b"sb."))
    found = read_plain(path)
    assert type(found) is OrderedDict
    assert vars(found) == {}


@pytest.mark.parametrize("read", [read_plain, read_tensors, read_array])
def test_what_is_no_file_is_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    endless = tmp_path / "endless"
    endless.symlink_to("/dev/zero")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (tmp_path, pipe, endless, loop, tmp_path / "missing.pt", tmp_path / ("x" * 300), Path("nul\0")):
        said = refusal(read, path)
        assert said is not None
        assert str(path).replace("\0", "\\x00") in said  # control characters are escaped


@pytest.mark.parametrize("read", [read_plain, read_tensors, read_array])
def test_a_file_over_the_limit_is_refused(read: Callable[..., object], tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    path.write_bytes(zipped(VALID))
    with pytest.raises(UserError, match=r"large\.pt is not read: it has \d+ bytes, more than the 100 allowed"):
        read(path, limit_bytes=100)


# ----------------------------------------------------------------------------------------------------------------- weights


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def broken(change: Callable[[dict[str, Tensor]], object]) -> dict[str, Tensor]:
    tensors = {key: value.clone() for key, value in small_net().state_dict().items()}
    change(tensors)
    return tensors


WEIGHTS: dict[str, tuple[dict[str, Tensor], str]] = {
    "missing": (broken(lambda t: t.pop("1.bias")), "missing 1.bias"),
    "unexpected": (broken(lambda t: t.update(extra=torch.zeros(1))), "unexpected extra"),
    "shape": (broken(lambda t: t.update({"3.weight": torch.zeros(3, 4)})), r"3\.weight \[3, 4\] instead of \[2, 4\]"),
    "another net": (nn.Linear(3, 2).state_dict(), "missing 0.weight, 0.bias, 1.weight and 6 more; unexpected weight, bias"),
    "complex": (broken(lambda t: t.update({"3.bias": torch.zeros(2, dtype=torch.complex64)})), "complex64 instead of"),
    "fractions as counts": (
        broken(lambda t: t.update({"1.num_batches_tracked": torch.tensor(0.5)})),
        "float32 instead of torch.int64",
    ),
    "NaN": (broken(lambda t: t["0.weight"].view(-1)[5].fill_(float("nan"))), "'0.weight' holds values that are not finite"),
    "infinite": (broken(lambda t: t["3.bias"][0].fill_(float("inf"))), "'3.bias' holds values that are not finite"),
    "overflow": (broken(lambda t: t.update({"3.bias": torch.full((2,), 1e300, dtype=torch.float64)})), "not finite"),
    "variance": (broken(lambda t: t["1.running_var"][0].fill_(-1.0)), "negative variance"),
}


@pytest.mark.parametrize("title", WEIGHTS)
def test_weights_that_do_not_fit_leave_the_net_alone(title: str) -> None:
    tensors, reason = WEIGHTS[title]
    net = small_net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(UserError, match=reason) as caught:
        weights_into(net, tensors, "stranger.pt")
    assert str(caught.value).startswith("stranger.pt: ")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("wrap", [
    lambda s: s,
    lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"lr": 0.1}},
    lambda s: {"net": s},
    lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "model_name": "preactresnet18", "index": np.arange(3)},
    lambda s: OrderedDict((f"module.{k}", v) for k, v in s.items()),
])  # fmt: skip
@pytest.mark.parametrize("zip_format", [True, False])
def test_weights_in_any_usual_wrapping_are_read(wrap: Callable[[Any], Any], zip_format: bool, tmp_path: Path) -> None:
    source, target = small_net(), small_net()
    torch.save(wrap(source.state_dict()), tmp_path / "w.th", _use_new_zipfile_serialization=zip_format)
    weights_into(target, read_tensors(tmp_path / "w.th"), tmp_path / "w.th")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([], "a value of type list"), ({}, "an empty dictionary"), (5, "a value of type int"), ({"a": 1}, "with the keys a"),
        ({"model": 5}, "with the keys model"), ({"state_dict": {"a": "b"}}, "with the keys a"),
        ([torch.ones(1)], "a value of type list"), (torch.ones(1), "a single tensor"),
        ({1: torch.ones(1)}, "a dictionary whose key 1 is no text"),
        ({"a": torch.eye(2).to_sparse()}, "whose 'a' is no dense tensor"),
    ],
)  # fmt: skip
def test_a_file_without_a_state_dict_says_what_is_there(value: object, what: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=r"odd\.pt is not read: there is no") as caught:
        read_tensors(tmp_path / "odd.pt")
    assert what in str(caught.value)
    assert str(caught.value).endswith("save one: torch.save(model.state_dict(), 'weights.pt')")


@pytest.mark.parametrize("prefix", ["net.", "model.net.", "module.model."])
def test_a_part_that_all_names_begin_with_is_dropped(prefix: str) -> None:
    source, target = small_net(), small_net()
    weights_into(target, {prefix + key: value for key, value in source.state_dict().items()}, "w.pt")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())


def test_counters_that_were_made_floats_with_the_weights_are_read() -> None:
    source, target = small_net(), small_net()
    weights_into(target, {key: value.half() for key, value in source.state_dict().items()}, "w.pt")
    assert all(value.dtype == source.state_dict()[key].dtype for key, value in target.state_dict().items())


# ------------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("path", [
    "", ".." , "../x", "a/../../x", "/etc/passwd", "//host/share", "C:\\x", "C:x", "..\\x", "a\\..\\..\\x", "\\x", "a\0b",
    "./../x", "out/x.png", "out", "hop/x.png", "loop/x",
])  # fmt: skip
def test_paths_out_of_the_folder_are_refused(path: str, tmp_path: Path) -> None:
    folder, outside = tmp_path / "record", tmp_path / "outside"
    (folder / "a").mkdir(parents=True)
    outside.mkdir()
    (outside / "x.png").write_bytes(b"secret")
    (folder / "out").symlink_to(outside)
    (folder / "hop").symlink_to("out")
    (folder / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=str(folder)):
        inside(folder, path)


def test_paths_in_the_folder_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert inside(tmp_path, "./link/3.png") == (tmp_path / "real" / "3.png").resolve()

"""Files of ``torch.save``, zip and legacy, read without torch's unpickler.

``torch.load(weights_only=True)`` refuses the NumPy values of BackdoorBench's and ANP's files, does not bound what a file may
claim, and executed code in torch before 2.6 (CVE-2025-32434): its guarantee depends on what is installed. This reader's does not.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mnp_plugin.io.pickle_values import (
    PLAIN_NAMES,
    Budget,
    Name,
    RefusedError,
    Token,
    need,
    plain_builders,
    shown,
    whole,
    wholes,
)
from mnp_plugin.io.pickles import Machine, Settler

MAX_RECORDS = 20_000
"""Records in a zip file; one for each tensor."""
MAX_DIRECTORY = 16 * 2**20
"""Bytes of a zip file's table of contents."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}


@dataclass(eq=False)
class Storage(Token):
    """The numbers behind one or more tensors: ``numel`` of ``dtype`` in record ``key``."""

    key: str
    dtype: torch.dtype
    numel: int

    def __str__(self) -> str:
        return "a bare torch storage"


@dataclass(eq=False)
class Strided(Token):
    """A dense tensor as a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    open_record: Callable[[str], bytearray]
    made: Tensor | None = None

    def settled(self) -> Tensor:
        if self.made is None:
            raw, dtype = self.open_record(self.storage.key), self.storage.dtype
            need(
                self.storage.numel * dtype.itemsize == len(raw),
                f"record {shown(self.storage.key)} has {len(raw)} bytes for {self.storage.numel} values of {dtype}",
            )
            if dtype == torch.bool:
                need(max(raw, default=0) <= 1, "a bool is neither 0 nor 1")
            flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            self.made = flat.as_strided(self.shape, self.stride, self.offset)
        return self.made


@dataclass(eq=False)
class _Reader:
    """The pickles of one torch file and the records they refer to."""

    budget: Budget
    records: Callable[[str], bytearray]
    storages: dict[str, Storage] = field(default_factory=dict)

    def run(self, stream: io.BytesIO) -> Any:
        builders = plain_builders(self.budget) | {
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch.Size": lambda shape: wholes(shape, "a torch.Size", 64),
        }
        return Machine(builders, PLAIN_NAMES | STORAGES.keys(), self.budget, self._storage).run(stream)

    def _storage(self, identity: Any) -> Storage:
        need(
            type(identity) is tuple and len(identity) in (5, 6) and identity[0] == "storage" and identity[5:] in ((), (None,)),
            "it refers to something outside the pickle that is no torch storage",
        )
        kind, key = identity[1:3]
        need(type(kind) is Name and kind.path in STORAGES, f"it has a storage of kind {shown(kind)}, which is not read")
        need(type(key) is str and type(identity[3]) is str, "a torch storage has no name")
        made = Storage(key, STORAGES[kind.path], whole(identity[4], "the size of a torch storage"))
        self.storages[key] = made
        return made

    def _tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Strided:
        need(type(storage) is Storage, "a tensor has no storage")
        need(len(rest) in (0, 2), "a tensor carries more than numbers")
        if rest:
            need(type(rest[0]) is bool and rest[1] == OrderedDict(), "a tensor carries hooks")
        start = whole(offset, "the offset of a tensor")
        sides, steps = wholes(shape, "the shape of a tensor", 16), wholes(stride, "the strides of a tensor", 16)
        need(len(sides) == len(steps), "a tensor has other strides than dimensions")
        count, last = 1, start
        for side, step in zip(sides, steps, strict=True):
            count *= side
            last += (side - 1) * step
        need(
            count <= storage.numel, f"a tensor of shape {shown(sides)} claims more than the {storage.numel} values of its storage"
        )
        need(
            last < storage.numel if count else start <= storage.numel,
            f"a tensor of shape {shown(sides)} reaches outside its storage",
        )
        self.budget.charge(count * storage.dtype.itemsize + 256)
        return Strided(storage, start, sides, steps if count else (1,) * len(sides), self.records)

    def _parameter(self, data: Any, requires_grad: Any, hooks: Any) -> Strided:
        need(type(data) is Strided and type(requires_grad) is bool and hooks == OrderedDict(), "a parameter carries hooks")
        return data  # type: ignore[no-any-return]


class _Capped(io.BytesIO):
    """A stream that, while ``cap`` is set, gives no more at once: zipfile reads a whole table of contents in one go."""

    cap: int | None = MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if self.cap is not None and size is not None and size > self.cap:
            raise RefusedError(f"its table of contents has {size} bytes, more than {self.cap}")
        return super().read(size)


def read_torch(content: bytes) -> Any:
    """What ``torch.save`` stored in ``content``: plain containers, numbers, text, NumPy values and dense CPU tensors.

    Raises:
        RefusedError: the file needs more than that, or contradicts itself.
        Exception: whatever zipfile, pickletools, NumPy or torch say of damaged bytes.
    """
    need(bool(content), "it is empty")
    budget = Budget(4 * len(content) + 2**20)
    return _read_zip(content, budget) if content[:4] == b"PK\x03\x04" else _read_legacy(content, budget)


def _read_zip(content: bytes, budget: Budget) -> Any:
    stream = _Capped(content)
    with zipfile.ZipFile(stream) as archive:
        stream.cap = None
        entries = archive.infolist()
        need(len(entries) <= MAX_RECORDS, f"it has {len(entries)} records, more than {MAX_RECORDS}")
        names = [entry.filename for entry in entries]
        known = set(names)
        need(len(known) == len(names), "two records have the same name")
        for entry in entries:
            need(
                entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size and not entry.flag_bits & 1,
                f"record {shown(entry.filename)} is compressed or encrypted, which torch never does",
            )
        need(sum(entry.file_size for entry in entries) <= len(content), "its records claim more bytes than the file has")
        roots = [name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        need(len(roots) == 1, "it is a zip file, but torch.save did not write it (no data.pkl)")
        root = roots[0]
        need(f"{root}constants.pkl" not in names, "it is a TorchScript archive, which holds code; save a state dict instead")
        if f"{root}byteorder" in names:
            need(archive.read(f"{root}byteorder") == b"little", "its numbers are stored in big-endian order")
        opened: dict[str, bytearray] = {}

        def record(key: str) -> bytearray:
            name = f"{root}data/{key}"
            need(name in known, f"record {shown(key)} is missing")
            if key not in opened:
                opened[key] = bytearray(archive.read(name))
            return opened[key]

        return Settler().settle(_Reader(budget, record).run(io.BytesIO(archive.read(f"{root}data.pkl"))))


def _read_legacy(content: bytes, budget: Budget) -> Any:
    stream = io.BytesIO(content)
    opened: dict[str, bytearray] = {}

    def record(key: str) -> bytearray:
        need(key in opened, f"storage {shown(key)} is missing")
        return opened[key]

    reader = _Reader(budget, record)
    need(content[:1] == b"\x80" and reader.run(stream) == LEGACY_MAGIC, "it was not written by torch.save")
    need(reader.run(stream) == LEGACY_PROTOCOL, "it was written by an unknown version of torch")
    system = reader.run(stream)
    need(type(system) is dict and system.get("little_endian") is True, "its numbers are stored in big-endian order")
    value = reader.run(stream)
    storages, keys = dict(reader.storages), reader.run(stream)
    need(type(keys) is list and len(keys) <= MAX_RECORDS, "its list of storages is damaged")
    for key in keys:
        need(type(key) is str and key in storages and key not in opened, "its list of storages is damaged")
        head = stream.read(8)
        need(len(head) == 8 and struct.unpack("<q", head)[0] == storages[key].numel, f"storage {shown(key)} has another size")
        size = storages[key].numel * storages[key].dtype.itemsize
        need(size <= len(content) - stream.tell(), f"storage {shown(key)} is cut short")
        opened[key] = bytearray(stream.read(size))
    return Settler().settle(value)

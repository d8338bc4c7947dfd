"""The pickles of ``torch.save``, run by torch's restricted unpickler over checked functions: nothing else can be called.

torch imports nothing that a file names, calls only what is on its list, and sets the state only of classes on it; before it
sees a pickle, :mod:`mnp_plugin.io.pickle_rewriting` has replaced every name in it by one of this reader. The restriction needs
torch 2.6 or newer (CVE-2025-32434).
"""

from __future__ import annotations

import io
import mmap
import pickle
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mnp_plugin.io.pickle_rewriting import INERT, PREFIX, STORAGE, rewrite
from mnp_plugin.io.pickle_values import Array, Dtype, Inert, Token, builders
from mnp_plugin.io.refusal import Budget, RefusedError, need, shown, whole, wholes

MAX_DIMS = 16
"""Dimensions of a tensor."""

_STORAGES = {
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
    "torch.storage.UntypedStorage": torch.uint8,
}
_YOUNG = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
KINDS = _STORAGES | {f"torch.{name}": getattr(torch, name) for name in _YOUNG}
"""dtypes by the names of storages, and by their own where torch gives them no storage."""
_LOCK = threading.Lock()  # torch keeps its list of allowed names once for all threads


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
    """A dense tensor as a view of a storage; ``dtype`` is the storage's or, of raw bytes, another."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    record: Callable[[str], bytearray]
    made: Tensor | None = None

    def settled(self) -> Tensor:
        if self.made is None:
            raw, key = self.record(self.storage.key), shown(self.storage.key)
            claimed = self.storage.numel * self.storage.dtype.itemsize
            need(
                claimed == len(raw), f"record {key} has {len(raw)} bytes for {self.storage.numel} values of {self.storage.dtype}"
            )
            if self.dtype == torch.bool:
                need(max(raw, default=0) <= 1, "a bool is neither 0 nor 1")
            flat = torch.frombuffer(raw, dtype=self.dtype) if raw else torch.empty(0, dtype=self.dtype)
            self.made = flat.as_strided(self.shape, self.stride, self.offset)
        return self.made


class PickleReader:
    """Reads the pickles of one file.

    Args:
        size: bytes of the file, of which a few times as many may be claimed.
        record: the bytes of a storage by its key; asked only when a tensor is settled.
    """

    def __init__(self, size: int, record: Callable[[str], bytearray]) -> None:
        self.budget = Budget(4 * size + 8 * 2**20)
        self.record = record
        self.storages: dict[str, Storage] = {}
        self._known: dict[str, Any] = {
            **builders(self.budget),
            **KINDS,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._young_tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch.Size": self._size,
        }

    def read(self, raw: bytes | mmap.mmap, start: int) -> tuple[Any, int]:
        """The value of the pickle at ``raw[start:]``, in which tokens stand for arrays and tensors; and where the pickle ends.

        Raises:
            RefusedError: the pickle is damaged, or claims or calls what it must not.
        """
        content, end = rewrite(raw, start, self._known)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("rewritten/data.pkl", content)
            archive.writestr("rewritten/version", b"3\n")
        file.seek(0)
        allowed = [*self._known.items(), (INERT, Inert), (STORAGE, self._storage), ("<array>", Array), ("<dtype>", Dtype)]
        pairs: list[Any] = [(value, f"{PREFIX}.{name}") for name, value in allowed]
        try:
            with _LOCK, torch.serialization.safe_globals(pairs):
                return torch.load(file, weights_only=True, map_location="cpu", mmap=False), end
        except pickle.UnpicklingError:
            raise RefusedError("its pickle is damaged, or asks for more than plain values") from None
        except (AttributeError, IndexError, KeyError, TypeError, UnicodeError):
            raise RefusedError("its pickle is damaged, or calls a function in an odd way") from None

    def _storage(self, *identity: Any) -> Storage | Inert:
        if type(identity[1]) is Inert:  # also what the legacy format stores of the class of a whole model
            return identity[1]
        fits = len(identity) == 5 or (len(identity) == 6 and identity[5] is None)
        need(fits and type(identity[0]) is str and identity[0] == "storage", "it refers to what is no torch storage of its own")
        kind, key = identity[1:3]
        need(type(kind) is torch.dtype, "it has a storage of a kind that is not read")
        need(type(key) is str and type(identity[3]) is str, "a torch storage has no name")
        self.budget.charge(64)
        made = Storage(key, kind, whole(identity[4], "the size of a torch storage"))
        self.storages[key] = made
        return made

    def _size(self, shape: Any) -> tuple[int, ...]:
        self.budget.charge_hashes(1)
        return wholes(shape, "a torch.Size", 64)

    def _tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Strided:
        need(type(storage) is Storage, "a tensor has no storage")
        return self._view(storage, storage.dtype, offset, shape, stride, *rest)

    def _young_tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any) -> Strided:
        need(type(storage) is Storage and storage.dtype == torch.uint8, "a tensor has no storage of bytes")
        need(type(dtype) is torch.dtype, "a tensor has a dtype that is not read")
        return self._view(storage, dtype, offset, shape, stride, grad, hooks)

    def _view(self, storage: Storage, dtype: torch.dtype, offset: Any, shape: Any, stride: Any, *rest: Any) -> Strided:
        need(len(rest) in (0, 2), "a tensor carries more than numbers")
        need(not rest or (type(rest[0]) is bool and isinstance(rest[1], dict) and not rest[1]), "a tensor carries hooks")
        start = whole(offset, "the offset of a tensor")
        sides, steps = wholes(shape, "the shape of a tensor", MAX_DIMS), wholes(stride, "the strides of a tensor", MAX_DIMS)
        need(len(sides) == len(steps), "a tensor has other strides than dimensions")
        count, last = 1, start
        for side, step in zip(sides, steps, strict=True):
            count *= side
            last += (side - 1) * step
        held = storage.numel * storage.dtype.itemsize // dtype.itemsize
        need(last < held if count else start <= held, "a tensor reaches outside its storage")
        self.budget.charge(count * dtype.itemsize + 512)  # of an expanded tensor every value, though it holds fewer
        return Strided(storage, dtype, start, sides, steps if count else (1,) * len(sides), self.record)

    def _parameter(self, data: Any, requires_grad: Any, hooks: Any) -> Strided:
        plain = type(data) is Strided and type(requires_grad) is bool and isinstance(hooks, dict) and not hooks
        need(plain, "a parameter carries hooks")
        return data  # type: ignore[no-any-return]

"""Files of ``torch.save``: the zip format and the legacy one. Records are read only when a tensor needs them."""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mnp_plugin.io.file_kinds import kind_of_archive, kind_of_file
from mnp_plugin.io.pickle_rewriting import MAX_BYTES
from mnp_plugin.io.refusal import need, shown
from mnp_plugin.io.torch_pickles import PickleReader

MAX_RECORDS = 20_000
"""Records in a zip file; one for each tensor."""
MAX_DIRECTORY = 16 * 2**20
"""Bytes of a zip file's table of contents."""
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
"""Two pickles of one number each: torch's magic number and version 1001 of its legacy format."""


class _Capped(io.FileIO):
    """A file that, while ``cap`` is set, gives no more at once: zipfile reads a whole table of contents in one go."""

    cap: int | None = MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        need(
            self.cap is None or size is None or size <= self.cap, f"its table of contents has {size} bytes, more than {self.cap}"
        )
        return super().read(-1 if size is None else size)


@contextmanager
def opened_torch(path: Path) -> Iterator[Any]:
    """What ``torch.save`` stored in ``path``, its arrays and tensors still tokens that can be settled inside the context.

    Raises:
        RefusedError: the file needs more than plain values, contradicts itself, or is of another kind.
        Exception: whatever zipfile, NumPy or torch say of damaged bytes.
    """
    with _Capped(path) as file:
        head = file.read(512)
        file.seek(0)
        if head.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(file) as archive:
                file.cap = None
                yield _read_zip(archive, path.stat().st_size)
        else:
            need(head.startswith(LEGACY_START), kind_of_file(head, path.suffix))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield _read_legacy(content)


def _read_zip(archive: zipfile.ZipFile, size: int) -> Any:
    entries = archive.infolist()
    need(len(entries) <= MAX_RECORDS, f"it has {len(entries)} records, more than {MAX_RECORDS}")
    names = [entry.filename for entry in entries]
    known = set(names)
    need(len(known) == len(names), "two records have the same name")
    roots = [name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    other = kind_of_archive(names)
    need(other is None, str(other))
    need(len(roots) == 1, "it is a zip file, but torch.save did not write it (no data.pkl)")
    root = roots[0]
    for entry in entries:
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size and not entry.flag_bits & 1
        need(stored, f"record {shown(entry.filename)} is compressed or encrypted, which torch.save never does")
    need(sum(entry.file_size for entry in entries) <= size, "its records claim more bytes than the file has")
    need(archive.getinfo(f"{root}data.pkl").file_size <= MAX_BYTES, f"its pickle has more than {MAX_BYTES} bytes")
    if f"{root}byteorder" in names:
        little = archive.getinfo(f"{root}byteorder").file_size == 6 and archive.read(f"{root}byteorder") == b"little"
        need(little, "its numbers are stored in big-endian order")
    opened: dict[str, bytearray] = {}

    def record(key: str) -> bytearray:
        name = f"{root}data/{key}"
        need(name in known, f"record {shown(key)} is missing")
        if key not in opened:
            opened[key] = bytearray(archive.read(name))  # zipfile compares the checksum
        return opened[key]

    return PickleReader(size, record).read(archive.read(f"{root}data.pkl"), 0)[0]


def _read_legacy(content: mmap.mmap) -> Any:
    opened: dict[str, bytearray] = {}

    def record(key: str) -> bytearray:
        need(key in opened, f"storage {shown(key)} is missing")
        return opened[key]

    reader = PickleReader(len(content), record)
    system, place = reader.read(content, len(LEGACY_START))
    need(type(system) is dict and system.get("little_endian") is True, "its numbers are stored in big-endian order")
    value, place = reader.read(content, place)
    storages = dict(reader.storages)
    keys, place = reader.read(content, place)
    need(type(keys) is list and len(keys) <= MAX_RECORDS, "its list of storages is damaged")
    for key in keys:
        need(type(key) is str and key in storages and key not in opened, "its list of storages is damaged")
        head, place = content[place : place + 8], place + 8
        need(len(head) == 8 and struct.unpack("<q", head)[0] == storages[key].numel, f"storage {shown(key)} has another size")
        size = storages[key].numel * storages[key].dtype.itemsize
        need(size <= len(content) - place, f"storage {shown(key)} is cut short")
        opened[key], place = bytearray(content[place : place + size]), place + size
    return value

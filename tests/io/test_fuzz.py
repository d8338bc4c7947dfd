"""Mutated files through the readers: only a UserError or a plain value comes out."""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors
from torch import Tensor

from mnp_plugin.core.errors import UserError
from mnp_plugin.integrations.anp.files import (
    MaskRow,
    PruningRow,
    read_masks,
    read_pruning,
    read_trigger,
    write_masks,
    write_pruning,
)
from mnp_plugin.io.safe import read_array, read_plain, read_tensors

PLAIN = (str, bytes, bytearray, int, float, bool, type(None), np.ndarray, np.generic, Tensor)
VALUE = {
    "model": OrderedDict(w=torch.arange(6.0).reshape(2, 3), b=torch.ones(2, dtype=torch.bool), n=torch.tensor(3)),
    "bd_test": {np.int64(7): {"path": "./record/x/7.png", "other_info": [0, np.int64(3)]}},
    "poison_indicator": np.array([0.0, 1.0]),
    "img_size": (32, 32, 3),
    "none": None,
}


def saved(**options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(VALUE, stream, **options)
    return stream.getvalue()


def array_file() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(6).reshape(2, 3))
    return stream.getvalue()


def text_file(write: Callable[[Path], None], folder: Path) -> bytes:
    write(folder / "x.txt")
    return (folder / "x.txt").read_bytes()


ROWS = [PruningRow(3, "layer4.1.bn2", 17, 0.15000000000000002, 2.5, 0.25, 0.5, 0.9375)] * 2


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Callable[[Path], object]]]:
    folder = tmp_path_factory.mktemp("seeds")
    return {
        "zip.pt": (saved(), read_plain),
        "tensors.pt": (saved(), read_tensors),
        "legacy.th": (saved(_use_new_zipfile_serialization=False), read_plain),
        "w.safetensors": (save_safetensors({"w": torch.ones(2, 3), "n": torch.tensor(3)}), read_tensors),
        "a.npy": (array_file(), read_array),
        "trigger_info.th": (saved(), read_trigger),
        "mask_values.txt": (
            text_file(lambda p: write_masks(p, [MaskRow("bn1", i, i / 4) for i in range(4)]), folder),
            read_masks,
        ),
        "pruning.txt": (text_file(lambda p: write_pruning(p, ROWS, "number"), folder), read_pruning),
    }


def with_pickle(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """``content`` with its pickle changed and every checksum right, so that the change reaches the interpreter."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for item in old.infolist():
            raw = old.read(item)
            new.writestr(item.filename, change(raw) if item.filename.endswith("data.pkl") else raw)
    return stream.getvalue()


EDIT = st.tuples(
    st.sampled_from(["set", "cut", "insert", "double", "opcode"]), st.floats(0, 1), st.binary(min_size=1, max_size=9)
)
OPCODES = bytes(sorted(ord(opcode.code) for opcode in pickletools.opcodes))


def mutate(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, share, raw in edits:
        place = min(int(share * len(content)), max(len(content) - 1, 0))
        if kind == "set":
            content = content[:place] + raw + content[place + len(raw) :]
        elif kind == "cut":
            content = content[:place] + content[place + raw[0] :]
        elif kind == "insert":
            content = content[:place] + raw + content[place:]
        elif kind == "double":
            content = content[:place] + content[place : place + raw[0]] * 2 + content[place + raw[0] :]
        else:
            content = content[:place] + bytes([OPCODES[raw[0] % len(OPCODES)]]) + content[place + 1 :]
    return content


def plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(plain(k) and plain(v) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(plain(v) for v in value)
    return isinstance(value, PLAIN) and not (isinstance(value, np.ndarray) and value.dtype.hasobject)


def try_mutations(seeds: dict[str, tuple[bytes, Callable[[Path], object]]], folder: Path, inputs: int, *, fixed: bool) -> int:
    seen = 0

    @settings(max_examples=inputs, deadline=None, database=None, derandomize=fixed, suppress_health_check=list(HealthCheck))
    @given(title=st.sampled_from(sorted(seeds)), edits=st.lists(EDIT, min_size=1, max_size=4), inner=st.booleans())
    def one(title: str, edits: list[tuple[str, float, bytes]], inner: bool) -> None:
        nonlocal seen
        seen += 1
        content, read = seeds[title]
        changed = (
            with_pickle(content, lambda raw: mutate(raw, edits)) if inner and content[:2] == b"PK" else mutate(content, edits)
        )
        path = folder / title
        path.write_bytes(changed)
        value: object = None
        said = str(path)
        try:
            value = read(path)
        except UserError as error:
            said = str(error)
        assert str(path) in said
        assert read in (read_masks, read_pruning, read_trigger) or plain(value)

    one()
    return seen


def test_mutated_files(
    seeds: dict[str, tuple[bytes, Callable[[Path], object]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for title, (content, read) in seeds.items():
        (tmp_path / title).write_bytes(content)
        if read is not read_trigger:
            read(tmp_path / title)  # the unchanged file is read, so that refusals below are of the change
    seen = try_mutations(seeds, tmp_path, 400, fixed=True)
    with capsys.disabled():
        print(f"\n{seen} mutated files: a plain value or a UserError each")
    assert seen >= 400


@pytest.mark.slow
def test_many_mutated_files(
    seeds: dict[str, tuple[bytes, Callable[[Path], object]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = try_mutations(seeds, tmp_path, int(os.environ.get("MNP_PLUGIN_FUZZ", "50000")), fixed=False)
    with capsys.disabled():
        print(f"\n{seen} mutated files: a plain value or a UserError each")


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("zip_format", [True, False])
def test_other_pickle_protocols_are_named(protocol: int, zip_format: bool, tmp_path: Path) -> None:
    path = tmp_path / "value.pt"
    torch.save(VALUE, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(UserError, match=f"pickle protocol {protocol}" if zip_format else "usual settings"):
        read_plain(path)


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.text() | st.integers(0, 99)
    return st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3) | st.tuples(inner, inner) | inner


numbers = st.builds(np.int64, st.integers(-(2**62), 2**62)) | st.builds(np.float32, st.floats(width=32, allow_nan=False))
values = containers(containers(containers(scalars | numbers)))


@settings(max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(value=values, zip_format=st.booleans())
def test_plain_values_come_back_equal(value: object, zip_format: bool, tmp_path: Path) -> None:
    path = tmp_path / "value.pt"
    torch.save(value, path, _use_new_zipfile_serialization=zip_format)
    found = read_plain(path)
    assert found == value
    assert type(found) is type(value)


@settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["f4", "f8", "f2", "i8", "i2", "u1", ">i4", "b1", "U3", "S3"]),
    shape=st.lists(st.integers(0, 4), max_size=3),
    fortran=st.booleans(),
)
def test_arrays_come_back_equal(kind: str, shape: list[int], fortran: bool, tmp_path: Path) -> None:
    made = np.arange(math.prod(shape)).reshape(shape).astype(kind)
    path = tmp_path / "array.pt"
    torch.save([made.copy(order="F" if fortran else "C")], path)
    (found,) = read_plain(path)
    assert np.array_equal(found, made)
    assert found.dtype == made.dtype.newbyteorder("=")


def test_the_largest_claims_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    """A header of 60 bytes that claims an exabyte; with an allocation first this would be a MemoryError at best."""
    path = tmp_path / "a.npy"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846976,)}\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(UserError, match="is given 0 bytes"):
        read_array(path)
    path.write_bytes(pickle.dumps(1))
    with pytest.raises(UserError, match=r"a\.npy is not read"):
        read_array(path)

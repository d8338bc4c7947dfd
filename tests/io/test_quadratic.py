"""Small files whose reading would take quadratic time: keys of one hash value, and many names."""

from __future__ import annotations

import io
import random
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mnp_plugin.core.errors import UserError
from mnp_plugin.io.safe import read_plain, read_tensors

WORD = 2**64
COUNT = 5000
Pairs = list[tuple[int, int]]


def tuples_of_one_hash(count: int) -> Pairs:
    """CPython hashes (x, y) by multiplying and rotating 64-bit words, which can be solved for y."""
    p1, p2, p5 = 11400714785074694791, 14029467366897019727, 2870177450012600261
    back, found, x = pow(p2, -1, WORD), [], 0
    while len(found) < count:
        x += 1
        first = (p5 + x * p2) % WORD
        first = ((first << 31) | (first >> 33)) * p1 % WORD
        y = (0x123456789ABCDEF0 - first) * back % WORD
        if y < 2**61 - 1:
            found.append((x, y))
    assert len({hash(pair) for pair in found}) == 1
    return found


def sets_of_one_hash(count: int) -> Pairs:
    """CPython hashes a frozenset by XOR over its members' hashes, each shuffled in a way that can be undone."""
    back, draw, found = pow(3644798167, -1, WORD), random.Random(1), []

    def member(shuffled: int) -> int:
        target = value = (shuffled * back % WORD) ^ 89869747
        for _ in range(4):
            value = target ^ (value << 16) % WORD
        return value

    while len(found) < count:
        word = draw.getrandbits(64)
        x, y = member(word), member(word ^ 0x0F0F1234AAAA5555)
        if max(x, y) < 2**61 - 1:
            found.append((x, y))
    assert len({hash(frozenset(pair)) for pair in found}) == 1
    return found


def pair(numbers: tuple[int, int]) -> bytes:
    return b"".join(b"\x8a\x08" + struct.pack("<q", number) for number in numbers) + b"\x86"


def keys_of_a_call(name: bytes, pairs: Pairs) -> bytes:
    """A dictionary whose keys are made by calls, each of one pair."""
    made = b"".join(b"h\x00" + pair(numbers) + b"\x85RN" for numbers in pairs)
    return b"c" + name + b"\nq\x00}(" + made + b"u\x86."


def members(pairs: Pairs) -> bytes:
    return b"c__builtin__\nset\n(" + b"".join(pair(numbers) for numbers in pairs) + b"t\x85R."


def saved(path: Path, pickle: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + pickle)
        archive.writestr("a/version", b"3\n")
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda: keys_of_a_call(b"torch\nSize", tuples_of_one_hash(COUNT)),
        lambda: keys_of_a_call(b"__builtin__\nfrozenset", sets_of_one_hash(COUNT)),
        lambda: members(tuples_of_one_hash(COUNT)),
    ],
    ids=["torch.Size", "frozenset", "members of a set"],
)
def test_keys_of_one_hash_value_are_refused_however_they_are_made(make: Callable[[], bytes], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 4096 tuples and sets"):
        read_plain(saved(tmp_path / "x.pt", make()))


def test_a_few_sets_and_sizes_are_plain_values(tmp_path: Path) -> None:
    torch.save({"size": torch.Size([2, 3]), "set": {(1, 2), (3, 4)}}, tmp_path / "x.pt")
    assert read_plain(tmp_path / "x.pt") == {"size": (2, 3), "set": {(1, 2), (3, 4)}}


@pytest.mark.thorough
def test_a_state_dict_of_many_tensors_takes_time_in_proportion(tmp_path: Path) -> None:
    def seconds(count: int) -> float:
        stream, numbers = io.BytesIO(), torch.arange(count, dtype=torch.float32)
        torch.save({f"w{i}": numbers[i : i + 1] for i in range(count)}, stream)
        (tmp_path / "x.pt").write_bytes(stream.getvalue())
        start = time.process_time()
        found = read_tensors(tmp_path / "x.pt")
        taken = time.process_time() - start
        assert float(found[f"w{count - 1}"]) == count - 1
        return taken

    few = min(seconds(4_000), seconds(4_000))
    assert seconds(16_000) < 10 * few  # in proportion: 4; quadratic: 16

"""A lock outlives nobody: neither a killed process of this host nor a host that says nothing any more."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mnp_plugin.benchmark import locks
from mnp_plugin.benchmark.locks import Locks
from mnp_plugin.benchmark.store import Store

HOLD = """
import sys, time
from pathlib import Path
from mnp_plugin.benchmark.locks import Locks
lock = Locks(Path(sys.argv[1])).acquired("job", lambda: None)
print("held", flush=True)
time.sleep(100)
"""


class TakenError(Exception):
    pass


def refuse() -> None:
    raise TakenError


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"held\n"
        mine = Locks(tmp_path)
        with pytest.raises(TakenError):
            mine.acquired("job", refuse)
        (holder,) = mine.holders()
        assert (holder.name, holder.pid) == ("job", other.pid)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert list(tmp_path.iterdir()), "it left its lock"
    assert mine.holders() == []
    mine.acquired("job", refuse).release()
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_silent_host_is_free_when_its_lease_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LEASE", 0.5)
    monkeypatch.setattr(locks, "HEARTBEAT", 0.2)
    theirs = Locks(tmp_path).acquired("job", refuse)
    marker = tmp_path / "job.lease"
    text = marker.read_text()
    theirs.release()
    host = next(line for line in text.splitlines() if line.startswith("host="))
    marker.write_text(text.replace(host, "host=elsewhere"))
    mine = Locks(tmp_path)
    with pytest.raises(TakenError):
        mine.acquired("job", refuse)
    time.sleep(0.6)
    os.utime(marker)  # a sign of life
    with pytest.raises(TakenError):
        mine.acquired("job", refuse)
    end = time.monotonic() + 20
    while True:
        time.sleep(0.1)
        try:
            mine.acquired("job", refuse).release()
            break
        except TakenError:
            assert time.monotonic() < end


def test_a_lock_is_kept_as_long_as_its_holder_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LEASE", 0.5)
    monkeypatch.setattr(locks, "HEARTBEAT", 0.1)
    held = Locks(tmp_path).acquired("job", refuse)
    end = time.monotonic() + 1.2
    other = Locks(tmp_path)
    while time.monotonic() < end:
        with pytest.raises(TakenError):
            other.acquired("job", refuse)
        time.sleep(0.1)
    held.release()


def test_a_store_looks_again_under_its_lock(tmp_path: Path) -> None:
    store, looks = Store(tmp_path / "cache", tmp_path / "results"), iter([None, "made elsewhere"])
    assert store.once("x", lambda: next(looks), refuse, refuse) == "made elsewhere"  # type: ignore[arg-type]


@pytest.mark.parametrize("half", [b"", b"\x00\xff nonsense\n"])
def test_a_lock_that_cannot_be_read_is_free_when_its_lease_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bytes
) -> None:
    """As a full disk leaves it, or a machine that loses its power while it writes."""
    monkeypatch.setattr(locks, "LEASE", 0.5)
    monkeypatch.setattr(locks, "HEARTBEAT", 0.2)
    (tmp_path / "job.lease").write_bytes(half)
    mine = Locks(tmp_path)
    assert mine.holders() == []
    waited: list[int] = []
    mine.acquired("job", lambda: waited.append(1)).release()
    assert waited == [1]
    assert not list(tmp_path.iterdir())
    (tmp_path / "job.lease").write_bytes(half)
    begun = time.monotonic()
    with suppress(TakenError):
        mine.acquired("job", refuse)
    while (tmp_path / "job.lease").exists():  # as the schedule of a run does, which has other jobs meanwhile
        assert time.monotonic() < begun + 60
        time.sleep(0.1)
        with suppress(TakenError):
            mine.acquired("job", refuse).release()
    assert time.monotonic() - begun > 0.5

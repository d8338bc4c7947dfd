"""Who makes what, where no folder is shared: one object per job that is being made.

All it needs is writing an object that must not exist, which S3, Google's and Azure's stores do as one step; where a file system
of fsspec only looks first, two machines may, rarely, make one job at once: to the same result.

A lock is the object ``<name>.<n>`` with the highest n. Its holder writes it anew every ``HEARTBEAT`` seconds (of
:mod:`~mnp_plugin.benchmark.locks`). Who sees the same content for ``LEASE`` seconds of its own clock takes over by writing
``<name>.<n + 1>``, which only one can.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from mnp_plugin.benchmark import locks
from mnp_plugin.benchmark.locks import Holder
from mnp_plugin.benchmark.remote import Remote
from mnp_plugin.core.errors import UserError

FOLDER = "store/locks"


class RemoteLocks:
    """Locks beside the files of ``remote``."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self._watched: dict[str, tuple[str, bytes, float]] = {}
        """Objects of others: what each held when it was last seen to change, and when that was."""

    def __reduce__(self) -> tuple[type[RemoteLocks], tuple[Any, ...]]:
        return RemoteLocks, (self.remote,)

    def acquired(self, name: str, waiting: Callable[[], object]) -> RemoteLease:
        """The lock ``name``, to be released by the caller; as :meth:`mnp_plugin.benchmark.locks.Locks.acquired`."""
        lease = self._attempt(name)
        if lease is None:
            waiting()
        while lease is None:
            time.sleep(min(2.0, locks.HEARTBEAT / 4))
            lease = self._attempt(name)
        self._watched.pop(name, None)
        return lease

    def holders(self) -> list[Holder]:
        """Who holds a lock now, or died holding it on another host."""
        found = []
        for file in sorted(self.remote.names(FOLDER)):
            owner = _owner(self.remote.get(f"{FOLDER}/{file}") or b"")
            if owner is not None and not _dead(owner):
                found.append(Holder(file.rpartition(".")[0], owner["host"], owner["pid"], max(time.time() - owner["time"], 0.0)))
        return found

    def _attempt(self, name: str) -> RemoteLease | None:
        numbers = sorted(int(file.rpartition(".")[2]) for file in self.remote.names(FOLDER) if file.rpartition(".")[0] == name)
        if numbers and not self._free(name, f"{FOLDER}/{name}.{numbers[-1]}"):
            return None
        lease = RemoteLease(self.remote, f"{FOLDER}/{name}.{numbers[-1] + 1 if numbers else 0}")
        if not lease.begin():
            return None
        for number in numbers:
            self.remote.delete(f"{FOLDER}/{name}.{number}")
        return lease

    def _free(self, name: str, file: str) -> bool:
        """Whether the holder of ``file`` is dead, or was silent for too long."""
        said = self.remote.get(file)
        if said is None:  # released meanwhile; the next look shows it
            return False
        owner = _owner(said)
        if owner is not None and _dead(owner):
            return True
        seen = self._watched.get(name)
        if seen is None or seen[:2] != (file, said):
            self._watched[name] = file, said, time.monotonic()
            return False
        return time.monotonic() - seen[2] > locks.LEASE


class RemoteLease:
    """A lock that is held: written anew by a thread until it is released or the process ends."""

    def __init__(self, remote: Remote, file: str) -> None:
        self.remote, self.file = remote, file
        self._over = threading.Event()

    def begin(self) -> bool:
        """Take it; whether nobody was quicker."""
        if not self.remote.create(self.file, self._content()):
            return False
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()
        return True

    def release(self) -> None:
        """Give it back."""
        self._over.set()
        self._beating.join()
        self.remote.delete(self.file)

    def _beat(self) -> None:
        while not self._over.wait(locks.HEARTBEAT):
            try:
                self.remote.put(self.file, self._content())
            except UserError:  # the next beat may come through
                continue

    def _content(self) -> bytes:
        pid = os.getpid()
        owner = {"host": socket.gethostname(), "pid": pid, "born": _born(pid), "time": time.time()}
        return json.dumps(owner).encode()


def _owner(said: bytes) -> dict[str, Any] | None:
    """Who wrote a lock; None if that cannot be read, as on places that show a file while it is being written anew."""
    try:
        found = json.loads(said)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() >= {"host", "pid", "born", "time"} else None


def _dead(owner: Mapping[str, Any]) -> bool:
    """Whether the holder of a lock is known to have ended: of processes of this host alone."""
    return bool(owner["host"] == socket.gethostname() and _born(owner["pid"]) != owner["born"])


def _born(pid: int) -> float:
    """When a process of this host began; 0 if there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0

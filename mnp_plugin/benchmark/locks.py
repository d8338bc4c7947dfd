"""Who makes what: one file per job that is being made, in a folder that all runs share.

A lock is a marker file with host and process of its holder, whose time stamp the holder renews. It needs nothing of the file
system but creating a file that must not exist, which NFS has too; advisory locks (``flock``) are lost or ignored on many
shared file systems. A holder that died is found out at once on its own host, where its process can be looked for; from other
hosts, when the marker was not renewed for :data:`LEASE` seconds of their own clock.

A holder that was only suspended for so long goes on, and then a job is made twice: to the same result, under atomic writes.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from filelock import SoftFileLease

LEASE = 120.0
"""Seconds without a sign of life after which a lock is free. NFS may show other hosts a time stamp that is a minute old."""
HEARTBEAT = 20.0
"""Seconds between two signs of life."""
SUFFIX = ".lease"


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    name: str
    host: str
    pid: int
    seconds: float
    """Since the lock was renewed last, by the clock of the file system."""


class Locks:
    """Locks in one folder, which is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._watched: dict[str, SoftFileLease] = {}
        """Locks of others: how long one goes without a sign of life is counted from the first look at it."""
        self._unreadable: dict[str, tuple[tuple[int, ...], float]] = {}
        """Locks that name no holder: what each was when first looked at, and when that was."""

    def __reduce__(self) -> tuple[type[Locks], tuple[Any, ...]]:
        return Locks, (self.folder,)

    def acquired(self, name: str, waiting: Callable[[], object]) -> SoftFileLease:
        """The lock ``name``, to be released by the caller.

        Args:
            name: of what is to be made.
            waiting: called if another holds it, before waiting; what it raises ends the attempt.

        Raises:
            OSError: the folder cannot be written to.
        """
        from filelock import Timeout

        lease = self._watched.pop(name, None) or self._lease(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lease.acquire(timeout=0)
        except Timeout:
            self._watched[name] = lease
            self._free_unreadable(name)
            waiting()
            while not lease.is_locked:
                with suppress(Timeout):
                    lease.acquire(timeout=1.0, poll_interval=0.2)
                self._free_unreadable(name)
            del self._watched[name]
        return lease

    def _free_unreadable(self, name: str) -> None:
        """Remove a lock that names no holder and has not changed for as long as a lease: nobody would ever take it over.

        A full disk or a machine without power leaves such a file. Where another run does the same at that moment, a job may
        be made twice, to the same result.
        """
        file = self.folder / f"{name}{SUFFIX}"
        try:
            found = file.stat()
            readable = self._lease(name).owner is not None
        except OSError:  # released meanwhile
            return
        mark = found.st_ino, found.st_mtime_ns, found.st_size
        seen = self._unreadable.pop(name, None)
        if readable:
            return
        if seen is None or seen[0] != mark:
            seen = mark, time.monotonic()
        if time.monotonic() - seen[1] > LEASE:
            file.unlink(missing_ok=True)
        else:
            self._unreadable[name] = seen

    def _lease(self, name: str) -> SoftFileLease:
        from filelock import SoftFileLease

        return SoftFileLease(self.folder / f"{name}{SUFFIX}", lease_duration=LEASE, heartbeat_interval=HEARTBEAT)

    def holders(self) -> list[Holder]:
        """Who holds a lock now, or died holding it on another host: of a process of this one it is known."""
        found = []
        for file in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                owner, age = self._lease(file.name.removesuffix(SUFFIX)).owner, time.time() - file.stat().st_mtime
            except OSError:  # released meanwhile
                continue
            if owner is not None and not (owner.hostname == socket.gethostname() and not psutil.pid_exists(owner.pid)):
                found.append(Holder(file.name.removesuffix(SUFFIX), owner.hostname, owner.pid, max(age, 0.0)))
        return found

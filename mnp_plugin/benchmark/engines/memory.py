"""Whether one more job fits into the memory of this machine."""

from __future__ import annotations

from collections.abc import Iterable

import psutil

from mnp_plugin.benchmark.engines.groups import bytes_left

MIB = 2**20


class Memory:
    """Learns from the processes that work how large jobs of a kind grow.

    Args:
        reserve: MiB that must stay free.
        least: MiB that any of them grows to, whatever it does: those of a process that has but imported and loaded what all need.
    """

    def __init__(self, reserve: float, least: float) -> None:
        self.reserve, self.least = reserve, least
        self.largest: dict[str, float] = {}
        """MiB of the largest process that did a job of a kind."""

    def look(self, working: Iterable[tuple[int, str]]) -> None:
        """See how large processes are now: the id of each, and the kind of its job."""
        for pid, kind in working:
            self.largest[kind] = max(self.largest.get(kind, 0.0), size_of(pid))

    def fits(self, kind: str, pid: int | None, working: Iterable[tuple[int, str]]) -> bool:
        """Whether a job of ``kind`` fits beside those that run, when all have grown as large as any of their kind before.

        Args:
            kind: of the job.
            pid: the process that would do it, None if that is yet to start.
            working: as :meth:`look` takes them.
        """
        own = 0.0 if pid is None else size_of(pid)
        growth = max(self._expected(kind) - own, 0.0)
        growth += sum(max(self._expected(kind) - size_of(pid), 0.0) for pid, kind in working)
        return available() - growth >= self.reserve

    def _expected(self, kind: str) -> float:
        return max(self.largest.get(kind, 0.0), self.least)


def size_of(pid: int) -> float:
    """Resident MiB of a process; 0 if it has ended."""
    try:
        return float(psutil.Process(pid).memory_info().rss) / MIB
    except psutil.Error:
        return 0.0


def available() -> float:
    """MiB that processes can still have: of the machine, or of a control group (a container, a batch job) if that is less."""
    return min(float(psutil.virtual_memory().available), bytes_left()) / MIB

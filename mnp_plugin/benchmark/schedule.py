"""Which job is next: what every engine asks. Pure but for the clock."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Sequence

from mnp_plugin.benchmark.jobs.job import Job

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds until a job that another run makes is looked at again: twice as long each time."""


class Schedule:
    """Jobs in the order of the plan, each after all that it needs; linear in their number.

    A job is *taken*, and then either done, put off (another run makes it), set apart (its process died) or given back.

    Args:
        jobs: what is to be done, each after all that it needs.
        clock: seconds.
    """

    def __init__(self, jobs: Sequence[Job], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs = list(dict.fromkeys(jobs))
        self._rank = {job: rank for rank, job in enumerate(self._jobs)}
        self._open: list[int] = []
        """Of each job: how many of its needs are not done."""
        self._users: list[list[int]] = [[] for _ in self._jobs]
        self._ready: list[int] = []
        self._put_off: list[tuple[float, int]] = []
        self._pauses: dict[int, float] = {}
        self._apart: deque[int] = deque()
        self._reasons: dict[int, str] = {}
        self.left = len(self._jobs)
        """How many are not done."""
        for rank, job in enumerate(self._jobs):
            needs = [self._rank[need] for need in dict.fromkeys(job.needs) if need in self._rank]
            self._open.append(len(needs))
            for need in needs:
                self._users[need].append(rank)
            if not needs:
                self._ready.append(rank)  # ascending, and so a heap

    def take(self, *, alone: bool = False) -> Job | None:
        """The next job that can be done now; None if there is none.

        Those put off come when there is nothing else and their pause is over, those set apart when nothing else can be done
        and ``alone`` says that nothing is running.
        """
        if self._ready:
            return self._jobs[heapq.heappop(self._ready)]
        if self._put_off and self._put_off[0][0] <= self._clock():
            return self._jobs[heapq.heappop(self._put_off)[1]]
        if self._apart and alone:
            return self._jobs[self._apart.popleft()]
        return None

    @property
    def pause(self) -> float:
        """Seconds until one of those put off is to be looked at again; the longest pause if there are none."""
        return max(self._put_off[0][0] - self._clock(), 0.0) if self._put_off else LONGEST_PAUSE

    def done(self, job: Job, reason: str = "") -> None:
        """``job`` is done, or failed with ``reason``: then what needs it fails for the same reason."""
        rank = self._rank[job]
        self.left -= 1
        self._pauses.pop(rank, None)
        for user in self._users[rank]:
            if reason:
                self._reasons.setdefault(user, reason)
            self._open[user] -= 1
            if not self._open[user]:
                heapq.heappush(self._ready, user)

    def blocked(self, job: Job) -> str:
        """Why ``job`` cannot be made: the reason of what it needs, or of :meth:`give_back`; empty if it can."""
        return self._reasons.get(self._rank[job], "")

    def put_off(self, job: Job) -> None:
        """Another run is making ``job``: it is looked at again when there is nothing else to do."""
        rank = self._rank[job]
        pause = self._pauses[rank] = min(2 * self._pauses.get(rank, FIRST_PAUSE / 2), LONGEST_PAUSE)
        heapq.heappush(self._put_off, (self._clock() + pause, rank))

    def set_apart(self, job: Job) -> None:
        """Try ``job`` again at the end, when no other is running."""
        self._apart.append(self._rank[job])

    def give_back(self, job: Job, reason: str = "") -> None:
        """``job`` was taken for nothing and is the next again; with a ``reason`` it is not made any more, but failed."""
        rank = self._rank[job]
        if reason:
            self._reasons[rank] = reason
        heapq.heappush(self._ready, rank)

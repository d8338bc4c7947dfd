"""What an engine is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mnp_plugin.benchmark.bench import Bench, Done
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.core.component import Component


@dataclass(frozen=True, kw_only=True)
class Engine(Component):
    """Does a list of jobs, each after all that it needs; registered by an entry point of the group ``mnp_plugin.engines``.

    An engine decides where and when a job is done, never how: it asks a :class:`~mnp_plugin.benchmark.schedule.Schedule` for
    the next one and has :meth:`Bench.do` do it, in a bench of each process that works. So no number depends on the engine.
    """

    @abstractmethod
    def run(self, bench: Bench, jobs: Sequence[Job]) -> Iterator[Done]:
        """What became of each job, in the order in which they end.

        Args:
            bench: of this process: its store, device and observer, and the jobs that are to be made again.
            jobs: each after all that it needs.

        Raises:
            UserError: no job can be done any more, such as on a full disk.
        """

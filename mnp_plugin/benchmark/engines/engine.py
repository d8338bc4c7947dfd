"""What an engine is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from mnp_plugin.benchmark.bench import Bench, Done
from mnp_plugin.benchmark.jobs.job import Job


class Engine(Protocol):
    """Does a list of jobs, each after all that it needs."""

    def __call__(self, bench: Bench, jobs: Sequence[Job]) -> Iterable[Done]:
        """What became of each, in any order."""

"""One job after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mnp_plugin.benchmark.bench import Bench, Done
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.plan import Failures


def inline(bench: Bench, jobs: Sequence[Job]) -> Iterator[Done]:
    """Do ``jobs`` in their order."""
    failures = Failures()
    for job in jobs:
        done = bench.do(job, failures.reason(job))
        failures.note(job, done.reason)
        yield done

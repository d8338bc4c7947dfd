"""One job after the other, in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mnp_plugin.benchmark.bench import Bench, Done
from mnp_plugin.benchmark.engines.engine import Engine
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.schedule import Schedule
from mnp_plugin.core.registries import engines


@engines.register("inline")
@dataclass(frozen=True, kw_only=True)
class Inline(Engine):
    """One job after the other, in this process, with all threads of torch."""

    def run(self, bench: Bench, jobs: Sequence[Job]) -> Iterator[Done]:
        schedule = Schedule(jobs)
        while schedule.left:
            job = schedule.take(alone=True)
            if job is None:
                time.sleep(schedule.pause)  # other runs make all that is left
                continue
            done = bench.do(job, schedule.blocked(job), wait=False)
            if done.locked:
                schedule.put_off(job)
                continue
            schedule.done(job, done.reason)
            yield done

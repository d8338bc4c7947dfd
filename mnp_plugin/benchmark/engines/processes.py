"""Several jobs at once, in processes of their own.

A small net keeps one core busy and hardly more, so on a CPU two processes of one thread do more than one of two threads.
Seeds come from what a cell is and records are written one file each, so the tables are those of a run in one process.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from mnp_plugin.benchmark.bench import Bench, Done
from mnp_plugin.benchmark.engines.engine import Engine
from mnp_plugin.benchmark.engines.memory import Memory, size_of
from mnp_plugin.benchmark.engines.worker import Worker, wait_for
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.schedule import Schedule
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.params import param
from mnp_plugin.core.registries import engines

TICK = 0.25
"""Seconds between two looks at memory and at what other runs make."""


@engines.register("processes")
@dataclass(frozen=True, kw_only=True)
class Processes(Engine):
    """Several jobs at once on this machine, each in a process of its own.

    A process that dies costs nothing but its job: that is tried once more at the end, with no other beside it, and is then a
    failed one. A job that would not fit into memory waits; how large jobs of its kind grow is learnt as they run.
    """

    workers: int = param(1, "processes", low=1)
    threads: int | None = param(None, "threads of each; none: those of this process, divided by the workers", low=1)
    devices: tuple[str, ...] = param((), "devices, given to the workers in turn; none: that of the run")
    reserve: float = param(512.0, "MiB of memory that must stay free; fewer jobs run at once if need be", low=0)

    def run(self, bench: Bench, jobs: Sequence[Job]) -> Iterator[Done]:
        count = min(self.workers, len(jobs))
        threads = self.threads or max(torch.get_num_threads() // max(count, 1), 1)
        devices = self.devices or (str(bench.device),)
        workers = [Worker(bench, devices[i % len(devices)], threads) for i in range(count)]
        try:
            memory = Memory(self.reserve, least=size_of(os.getpid()))  # this one has imported what they will
            yield from _Run(bench, workers, Schedule(jobs), memory).loop()
        finally:
            for worker in workers:
                worker.end()


class _Run:
    def __init__(self, bench: Bench, workers: Sequence[Worker], schedule: Schedule, memory: Memory) -> None:
        self.bench, self.workers, self.schedule, self.memory = bench, workers, schedule, memory
        self.deaths: Counter[Job] = Counter()

    def loop(self) -> Iterator[Done]:
        while self.schedule.left:
            self.hand_out()
            running = [worker for worker in self.workers if worker.job is not None]
            self.memory.look(self.working())
            for worker in wait_for(running, TICK if running else min(self.schedule.pause, TICK)):
                yield from self.heard(worker)

    def working(self) -> list[tuple[int, str]]:
        return [(worker.pid, worker.job.kind) for worker in self.workers if worker.job is not None and worker.pid is not None]

    def hand_out(self) -> None:
        """Give a job to each idle worker, as long as there are any and they fit."""
        for worker in self.workers:
            if worker.job is not None:
                continue
            working = self.working()
            job = self.schedule.take(alone=not working)
            if job is None:
                return
            if working and not self.memory.fits(job.kind, worker.pid, working):
                self.schedule.give_back(job)
                self.bench.busy(f"{job.title}: waits for memory")
                return
            worker.start(job, self.schedule.blocked(job))

    def heard(self, worker: Worker) -> Iterator[Done]:
        """What a worker says; or that it died."""
        job = worker.job
        assert job is not None
        done = worker.listen(self.bench.observer)
        if worker.died:
            self.died(job, worker.died)
        elif done is not None and done.locked:
            self.schedule.put_off(job)
        elif done is not None:
            self.schedule.done(job, done.reason)
            yield done

    def died(self, job: Job, how: str) -> None:
        self.deaths[job] += 1
        if self.deaths[job] == 1:
            self.bench.busy(f"{job.title}: its process died ({how}); tried again at the end, alone")
            self.schedule.set_apart(job)
        elif self.deaths[job] == 2:
            self.schedule.give_back(job, f"its process died twice ({how})")
        else:  # the record of that failure is all that was to be made
            raise UserError(f"processes of this run die ({how}). Finished cells are kept: run the same command again")

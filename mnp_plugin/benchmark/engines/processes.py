"""Several jobs at once, in processes of their own.

A small net keeps one core busy and hardly more, so on a CPU two processes of one thread do more than one of two threads.
Seeds come from what a cell is and records are written one file each, so the tables are those of a run in one process.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch

from mnp_plugin.benchmark.bench import Bench, Done
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.observer import Silent
from mnp_plugin.benchmark.plan import Failures
from mnp_plugin.core.errors import UserError
from mnp_plugin.report.records import Record

TICK = 0.1
"""Seconds between two looks at what the processes report."""


@dataclass(frozen=True)
class Pool:
    """An engine of ``jobs`` processes that share the threads of this one.

    Raises:
        UserError: when run, if a process dies.
    """

    jobs: int

    def __call__(self, bench: Bench, jobs: Sequence[Job]) -> Iterator[Done]:
        if not jobs:
            return
        context = mp.get_context("spawn")  # forked threads of torch would hang
        events: SimpleQueue[tuple[str, tuple[Any, ...]]] = context.SimpleQueue()
        count = min(self.jobs, len(jobs))
        how = (bench.store, bench.device, max(torch.get_num_threads() // count, 1), events)
        others = mp.active_children()
        executor = ProcessPoolExecutor(count, context, _begin, how)
        waiting, open_jobs, failures = dict.fromkeys(jobs), set(jobs), Failures()
        running: dict[Future[Done], Job] = {}
        try:
            while waiting or running:
                for job in [job for job in waiting if not open_jobs.intersection(job.needs)][: count - len(running)]:
                    del waiting[job]
                    with _no_interrupt():  # a process may be started here
                        running[executor.submit(_work, job, failures.reason(job))] = job
                finished, _ = wait(running, TICK, FIRST_COMPLETED)
                while not events.empty():
                    event, arguments = events.get()
                    getattr(bench.observer, event)(*arguments)
                for future in finished:
                    done, job = future.result(), running.pop(future)
                    open_jobs.discard(job)
                    failures.note(job, done.reason)
                    yield done
        except BrokenProcessPool:
            raise UserError(
                "a process of this run died, perhaps for want of memory. Finished cells are kept: run the same command again, "
                f"with fewer --jobs than {count}"
            ) from None
        finally:
            for process in mp.active_children() if waiting or running else ():  # interrupted
                if process not in others:
                    process.terminate()
            executor.shutdown(cancel_futures=True)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes started here never hear of Ctrl-C, which reaches the whole group; the first process ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_bench: Bench
"""In a process of the pool: its own."""


@dataclass(frozen=True)
class _Reporter(Silent):
    """Observer that passes on what happens."""

    events: SimpleQueue[tuple[str, tuple[Any, ...]]]

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        self.events.put(("busy", (what, step, steps)))

    def finished(self, record: Record) -> None:
        self.events.put(("finished", (record,)))

    def measured(self, title: str, reason: str) -> None:
        self.events.put(("measured", (title, reason)))


def _begin(store: Any, device: Any, threads: int, events: Any) -> None:
    global _bench
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _bench = Bench(store, device, _Reporter(events))


def _end_with_parent() -> None:
    """A first process that is killed can end nobody."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(job: Job, blocked: str) -> Done:
    return _bench.do(job, blocked)

"""Several victims at once, in processes of their own.

A small net keeps one core busy and hardly more, so on a CPU two processes of one thread do more than one of two threads.
Seeds come from what a cell is and records are written one file each, so the tables are those of a run in one process.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch

from mnp_plugin.benchmark.runner import Runner, Silent
from mnp_plugin.benchmark.suite import AnyVictim
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

    def __call__(self, runner: Runner, victims: Sequence[AnyVictim]) -> Iterator[list[Record]]:
        if not victims:
            return
        context = mp.get_context("spawn")  # forked threads of torch would hang
        events: SimpleQueue[tuple[str, tuple[Any, ...]]] = context.SimpleQueue()
        jobs = min(self.jobs, len(victims))
        threads = max(torch.get_num_threads() // jobs, 1)
        how = (runner.suite, runner.store, runner.device, runner.attacks, runner.defenses, threads, events)
        others = mp.active_children()
        executor = ProcessPoolExecutor(jobs, context, _begin, how)
        with _no_interrupt():
            waiting = {executor.submit(_work, victim) for victim in victims}
        try:
            while waiting:
                done, waiting = wait(waiting, TICK, FIRST_COMPLETED)
                while not events.empty():
                    event, arguments = events.get()
                    getattr(runner.observer, event)(*arguments)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise UserError(
                "a process of this run died, perhaps for want of memory. Finished cells are kept: run the same command again, "
                f"with fewer --jobs than {jobs}"
            ) from None
        finally:
            for process in mp.active_children() if waiting else ():  # interrupted
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


_runner: Runner
"""In a process of the pool: its own."""


@dataclass(frozen=True)
class _Reporter(Silent):
    """Observer that passes on what happens."""

    events: SimpleQueue[tuple[str, tuple[Any, ...]]]

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        self.events.put(("busy", (what, step, steps)))

    def finished(self, record: Record) -> None:
        self.events.put(("finished", (record,)))


def _begin(suite: Any, store: Any, device: Any, attacks: Any, defenses: Any, threads: int, events: Any) -> None:
    global _runner
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _runner = Runner(suite, store, device, _Reporter(events), attacks=attacks, defenses=defenses)


def _end_with_parent() -> None:
    """A first process that is killed can end nobody."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(victim: AnyVictim) -> list[Record]:
    return _runner.run_victim(victim)

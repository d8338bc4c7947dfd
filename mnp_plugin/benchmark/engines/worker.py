"""A process that does jobs, seen from both sides."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from mnp_plugin.benchmark.bench import Bench, Done
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.observer import Observer, Silent
from mnp_plugin.benchmark.store import Store
from mnp_plugin.core.errors import UserError
from mnp_plugin.report.records import Record

READY = "ready"


class Worker:
    """One process, started with its first job and anew after it died.

    Args:
        bench: of the first process: gives the store.
        device: of its own.
        threads: of torch in it.
    """

    def __init__(self, bench: Bench, device: str, threads: int) -> None:
        self._how = (bench.store, device, threads, bench.again)
        self._process: Any = None
        self._pipe: Connection | None = None
        self._ready = False
        self.job: Job | None = None
        """What it does now."""
        self.died = ""
        """How it died when it was last listened to; empty if it lives."""

    @property
    def pid(self) -> int | None:
        """Its process; None before it starts."""
        return None if self._process is None else self._process.pid

    def start(self, job: Job, blocked: str) -> None:
        """Give it a job."""
        if self._process is None:
            context = mp.get_context("spawn")  # forked threads of torch would hang
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs, *self._how), daemon=True)
            with _no_interrupt():
                self._process.start()
            theirs.close()
            self._ready = False
        assert self._pipe is not None
        self.job = job
        with suppress(OSError):  # it has died; that is heard when it is listened to
            self._pipe.send((job, blocked))

    def listen(self, observer: Observer) -> Done | None:
        """Pass on to ``observer`` what it says, until it has nothing more to say; what became of its job, if that is over.

        Raises:
            UserError: what the job raised that ends the run; or it died before its first job.
        """
        assert self._pipe is not None
        self.died = ""
        try:
            while self._pipe.poll():
                what, arguments = self._pipe.recv()
                if what == READY:
                    self._ready = True
                elif what == "done":
                    self.job = None
                    done: Done = arguments
                    return done
                elif what == "raised":
                    raise arguments
                else:
                    getattr(observer, what)(*arguments)
        except (EOFError, ConnectionError):
            self._process.join()  # else it were a zombie, which holds its locks
            code, ready, self.job = self._process.exitcode, self._ready, None
            self._close()
            self.died = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            if not ready:
                raise UserError(
                    f"a process of this run cannot start ({self.died}), perhaps for want of memory; try fewer --workers"
                ) from None
        return None

    @property
    def pipe(self) -> Connection | None:
        """What it speaks through; readable, too, once it has died."""
        return self._pipe

    def end(self) -> None:
        """End it: at once if it works, else as soon as it has heard it."""
        if self._process is not None:
            if self.job is not None:
                self._process.terminate()
            if self._pipe is not None:
                self._pipe.close()  # an idle one ends when nobody can speak to it
            self._process.join(5)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._close()

    def _close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._process.close()
        self._process, self._pipe = None, None


def wait_for(workers: Sequence[Worker], seconds: float) -> list[Worker]:
    """Those of ``workers`` that have something to say or have died, after at most so many seconds."""
    by_pipe = {worker.pipe: worker for worker in workers if worker.pipe is not None}
    if not by_pipe:
        time.sleep(seconds)
        return []
    return [by_pipe[pipe] for pipe in wait(list(by_pipe), seconds)]  # type: ignore[index]


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes started here never hear of Ctrl-C, which reaches the whole group; the first process ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # starting a first process starts it, too, and that would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- in the process


@dataclass(frozen=True)
class _Reporter(Silent):
    """Observer that passes on what happens."""

    pipe: Connection

    def _send(self, event: str, *arguments: Any) -> None:
        try:
            self.pipe.send((event, arguments))
        except OSError:  # the first process has ended; raised here, it would become the failure of a job
            os._exit(1)

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        self._send("busy", what, step, steps)

    def finished(self, record: Record) -> None:
        self._send("finished", record)

    def measured(self, title: str, reason: str) -> None:
        self._send("measured", title, reason)


def _work(pipe: Connection, store: Store, device: str, threads: int, again: dict[tuple[str, str], str]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _be_the_first_to_go()
    torch.set_num_threads(threads)
    bench = Bench(store, torch.device(device), _Reporter(pipe), again)
    with suppress(EOFError, ConnectionError):  # nobody is there any more
        pipe.send((READY, ()))
        while True:
            job, blocked = pipe.recv()
            try:
                done = bench.do(job, blocked, wait=False)
            except UserError as error:  # a full disk
                pipe.send(("raised", error))
                return
            pipe.send(("done", done))


def _be_the_first_to_go() -> None:
    """Where memory runs out, the kernel kills this process and not the first, which does this one's job again."""
    with suppress(OSError):  # only Linux has that file
        Path("/proc/self/oom_score_adj").write_text("500")


def _end_with_parent() -> None:
    """A first process that is killed can end nobody."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

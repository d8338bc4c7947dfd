"""Several victims at once: the same scores, and nothing is lost or left behind when a process ends before its time."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import torch

from mnp_plugin.benchmark.bench import Bench
from mnp_plugin.benchmark.engines.memory import Memory, available, size_of
from mnp_plugin.benchmark.engines.processes import Processes
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.observer import Silent
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Kept, Store
from mnp_plugin.benchmark.suite_file import load_suite
from mnp_plugin.io.atomic import UnwritableError
from mnp_plugin.report.records import Record, from_json

TEXT = """\
suite: tiny
dataset: {{name: digits, size: 8}}
net: {{name: smallnet, width: 4}}
recipe: {{epochs: {epochs}, batch_size: 64, crop: 0, flip: false, precision: float32}}
clean_budget: {{images: 40}}
attacks: [clean, badnets, {{name: trojannn, steps: 20}}]
defenses: [none, {{name: ft, epochs: 1}}]
"""


def start(folder: Path, jobs: int, epochs: int = 1, stderr: IO[str] | int = subprocess.PIPE) -> subprocess.Popen[str]:
    """One thread a process, so that the sums of two runs are rounded alike."""
    (folder / "tiny.yaml").write_text(TEXT.format(epochs=epochs))
    command = [sys.executable, "-m", "mnp_plugin", "run", "tiny.yaml", "--device", "cpu", "--jobs", str(jobs)]
    # A shell that runs the tests in the background ignores Ctrl-C, and what is started inherits that; a handler is not inherited.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [*command, "--results", "results", "--store", "store"],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, ours)


def records(results: Path) -> dict[str, Record]:
    files = (results / "tiny" / "records").glob("*.json")
    return {f"{r.attack}-{r.defense}": r for r in (from_json(p.read_text(), str(p)) for p in files)}


def scores(record: Record) -> tuple[object, ...]:
    return record.before, record.after, record.oracle, record.stealth


def until(true: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def workers_of(first: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in first.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # helpers of an import come and go while one looks
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.thorough
def test_two_processes_give_the_scores_of_one(tmp_path: Path) -> None:
    run = start(tmp_path, 2)
    out, err = run.communicate()
    assert run.returncode == 0, out + err
    assert "6 cells run, 0 done before, 0 failed" in err
    assert err.count("seed 0: training") == 3  # the clean net, which TrojanNN needs too, was trained once
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = Store(tmp_path / "store of one", tmp_path / "results of one")
    suite = load_suite(tmp_path / "tiny.yaml")
    assert Runner(suite, alone, torch.device("cpu")).run().ran == 6
    torch.set_num_threads(threads)
    found = records(tmp_path / "results")
    assert len(found) == 6
    assert {k: scores(r) for k, r in found.items()} == {k: scores(r) for k, r in records(alone.results).items()}


@pytest.mark.thorough
@pytest.mark.parametrize(("whom", "signum"), [("group", signal.SIGINT), ("first", signal.SIGKILL)])
def test_processes_that_are_ended_leave_none_behind_and_whole_files_only(
    tmp_path: Path, whom: str, signum: signal.Signals
) -> None:
    told = tmp_path / "told"
    with told.open("w") as stderr:
        run = start(tmp_path, 2, epochs=100000, stderr=stderr)
    first = psutil.Process(run.pid)
    try:
        until(lambda: told.read_text().count("seed 0: training") == 2 or run.poll() is not None)
        workers = workers_of(first)
        assert len(workers) == 2, told.read_text()
        if whom == "group":
            os.killpg(run.pid, signum)
        else:
            os.kill(run.pid, signum)
        run.communicate(timeout=60)
        until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in workers), 30)
    finally:
        with contextlib.suppress(ProcessLookupError):  # where all went well, none of the group is left
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == {signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[signum]
    assert "Traceback" not in told.read_text()
    assert records(tmp_path / "results") == {}


@dataclass(frozen=True, eq=False)
class Odd(Job):
    """A job that does something to the process that does it."""

    folder: Path
    name: str
    does: str
    kind = "odd"

    @property
    def stored(self) -> bool:
        return False

    @property
    def identity(self) -> dict[str, str]:
        return {"name": self.name}

    @property
    def title(self) -> str:
        return self.name

    @property
    def images_of(self) -> Any:
        raise AssertionError("needs no images")

    def make(self, inputs: Any, bench: Bench) -> Kept:
        with (self.folder / self.name).open("a") as file:
            file.write("x")
        if self.does == "segfault" or (self.does == "dies once" and (self.folder / self.name).stat().st_size == 1):
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.does == "grow":
            resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
            torch.empty(2**36, dtype=torch.uint8)
        if self.does == "first to go" and int(Path("/proc/self/oom_score_adj").read_text()) < 500:
            raise AssertionError("the kernel may kill the first process before this one")
        if self.does == "full":
            raise UnwritableError("cannot write x: no space left")
        return Kept({})


def odd_run(folder: Path, *does: str, workers: int = 2) -> dict[str, str]:
    """Reasons by name; jobs are imported from here in the processes that do them."""
    jobs = [Odd(folder, f"{i} {what}", what) for i, what in enumerate(does)]
    bench = Bench(Store(folder / "cache", folder / "results"), torch.device("cpu"), Silent())
    names = {job.key: job.name for job in jobs}
    with pytest.MonkeyPatch.context() as patch:  # processes find this module by its name
        patch.syspath_prepend(str(Path(__file__).parent))
        for name in ("test_engines", Odd.__module__):
            patch.setitem(sys.modules, name, sys.modules[Odd.__module__])
        patch.setattr(Odd, "__module__", "test_engines")
        return {names[done.key]: done.reason for done in Processes(workers=workers).run(bench, jobs)}


@pytest.mark.thorough
def test_a_process_that_dies_costs_its_job_alone(tmp_path: Path) -> None:
    """One that dies twice is a failed job, one that dies once is done at the second try, and one out of memory says so."""
    reasons = odd_run(tmp_path, "segfault", "dies once", "grow", "nothing", "first to go")
    assert reasons["0 segfault"] == "its process died twice (SIGSEGV)"
    assert "memory" in reasons["2 grow"]
    assert [reasons[name] for name in ("1 dies once", "3 nothing", "4 first to go")] == ["", "", ""]
    assert {name: (tmp_path / name).stat().st_size for name in reasons} == {
        "0 segfault": 2, "1 dies once": 2, "2 grow": 1, "3 nothing": 1, "4 first to go": 1,
    }  # fmt: skip


def test_a_full_disk_found_by_a_process_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(UnwritableError, match="no space left"):
        odd_run(tmp_path, "full", "nothing", workers=1)


def test_a_job_that_would_not_fit_beside_others_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(reserve=100, least=60)
    sizes = {1: 300.0, 2: 50.0}
    monkeypatch.setattr("mnp_plugin.benchmark.engines.memory.size_of", lambda pid: sizes[pid])
    monkeypatch.setattr("mnp_plugin.benchmark.engines.memory.available", lambda: 500.0)
    working = [(1, "victims")]
    assert memory.fits("victims", 2, working), "nothing is known yet"
    sizes |= {3: 0.0}
    monkeypatch.setattr("mnp_plugin.benchmark.engines.memory.available", lambda: 250.0)
    assert memory.fits("victims", None, [(3, "victims")])
    assert not memory.fits("victims", None, [(3, "victims"), (3, "victims")]), "three that start would grow by 180 MiB"
    monkeypatch.setattr("mnp_plugin.benchmark.engines.memory.available", lambda: 500.0)
    sizes[1] = 900.0
    memory.look(working)
    assert not memory.fits("victims", 2, working), "it would grow by 850 MiB"
    assert not memory.fits("victims", None, [])
    assert memory.fits("records", 2, working)
    sizes[2] = 600.0
    assert memory.fits("victims", 2, working), "it has most of that already"
    sizes[1] = 500.0
    assert not memory.fits("victims", 2, working), "the other may grow as large again"


def test_memory_is_known_here() -> None:
    assert 0 < available() < 2**30
    assert size_of(os.getpid()) > 10
    assert size_of(2**22 + 1) == 0


def test_a_victim_is_made_by_one_at_a_time(tmp_path: Path) -> None:
    told: list[str] = []
    kept: list[str] = []

    def ask(who: str, make: Callable[[], str]) -> str:
        return Store(tmp_path, tmp_path).once("x", lambda: kept[0] if kept else None, make, lambda: told.append(f"{who} waits"))

    def never() -> str:
        raise AssertionError("made twice")

    second = threading.Thread(target=lambda: told.append(f"second has {ask('second', never)}"))

    def first() -> str:
        second.start()
        until(lambda: told)
        assert told == ["second waits"]
        kept.append("it")
        return "it"

    assert ask("first", first) == "it"
    second.join()
    assert told == ["second waits", "second has it"]
    assert ask("third", never) == "it"


def test_the_right_to_make_is_given_back_when_making_fails(tmp_path: Path) -> None:
    def fail() -> str:
        raise ValueError("no")

    store = Store(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="no"):
        store.once("x", lambda: None, fail, fail)  # type: ignore[arg-type]
    assert store.once("x", lambda: None, lambda: "made", fail) == "made"  # type: ignore[arg-type]

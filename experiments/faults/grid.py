"""What do faults cost a grid of runs, beyond the job that was under way?

    python experiments/faults/grid.py FOLDER [KILLS] [SEED] [FAULT] [SUITE]

A small suite runs once undisturbed. Then the same suite, each time from nothing, meets one fault after another: SIGKILL at random
moments (KILLS times, several in each grid), SIGTERM, Ctrl-C twice, a full disk under two processes, a read-only store, two runs
on one store, a process that dies of SIGSEGV, one that is killed as the kernel does for want of memory, a damaged record, results
that vanish. After each the run is completed, and table and weights are compared with those of the undisturbed one: all columns
but ``seconds`` and ``peak_mb``.
Figures go to ``FOLDER/figures.json``; full and read-only disks need root, to mount them.

Runs are forked from one process that has imported everything, so that moments fall into work, not into imports.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
import torch._dynamo  # torch imports it for the first optimiser
import torchvision.utils  # noqa: F401

import mnp_plugin.report.build  # noqa: F401 - imported before forking
from mnp_plugin.attacks import badnets, trojannn  # noqa: F401
from mnp_plugin.benchmark import runner  # noqa: F401
from mnp_plugin.benchmark.partial import Partial
from mnp_plugin.cli import main as command
from mnp_plugin.data.digits import Digits
from mnp_plugin.defenses import anp, ft  # noqa: F401
from mnp_plugin.io.tensors import unpacked
from mnp_plugin.report.records import from_json

SUITE = """
suite: faults
dataset: {name: digits, size: 16}
net: {name: smallnet, width: 4}
recipe: {epochs: 6, batch_size: 64, lr: 0.1, crop: 1, flip: false, precision: float32}
clean_budget: {images: 100}
attacks: [clean, badnets, {name: trojannn, steps: 50}]
defenses: [none, {name: ft, epochs: 3}, {name: anp, iterations: 20}]
"""
CELLS, VICTIMS = 9, 3


class Place:
    """One grid: a store, results and a log."""

    def __init__(self, folder: Path, suite: Path) -> None:
        self.folder, self.suite = folder, suite
        folder.mkdir(parents=True)

    def arguments(self, *more: str) -> list[str]:
        places = ["--store", str(self.folder / "store"), "--results", str(self.folder / "results"), "--device", "cpu"]
        return ["run", str(self.suite), *places, *more]

    def fork(self, *more: str) -> int:
        """Start the command; its process."""
        pid = os.fork()
        if pid:
            return pid
        log = os.open(self.folder / "log.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.setpgrp()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        Partial.EVERY = 0.0
        status = 99
        try:
            status = command(self.arguments(*more))
        finally:
            sys.stdout.flush()
            os._exit(status)

    def run(self, *more: str) -> int:
        """Run the command to its end; its exit status."""
        return ended(self.fork(*more))

    def spawn(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the command in a process of its own, as a user would; needed where it starts processes itself."""
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "mnp_plugin", *self.arguments(*more)], stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def table(self) -> list[dict[str, str]]:
        """The table without what differs from run to run."""
        with (self.folder / "results/faults/leaderboard.csv").open() as file:
            return [{k: v for k, v in row.items() if k not in ("seconds", "peak_mb")} for row in csv.DictReader(file)]

    def weights(self) -> dict[str, Any]:
        found = {file.name: unpacked(file.read_bytes()) for file in sorted(self.folder.glob("store/victims/*.safetensors"))}
        return {name: content[0] for name, content in found.items() if content is not None}

    def whole(self) -> bool:
        """Whether no file is half there."""
        for file in self.folder.glob("store/*/*.safetensors"):
            if unpacked(file.read_bytes()) is None:
                return False
        for file in self.folder.glob("results/faults/records/*.json"):
            from_json(file.read_text(), str(file))
        return True

    def written(self) -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in self.folder.glob("store/victims/*.safetensors")}


def ended(pid: int, seconds: float | None = None) -> int | None:
    """Exit status of a process; None if it still runs after ``seconds``."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, 0 if end is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() > end:
            return None
        time.sleep(0.005)


def same(one: Place, other: Place) -> bool:
    """Whether two grids ended in the same table and the same weights."""
    mine, theirs = one.weights(), other.weights()
    alike = mine.keys() == theirs.keys() and all(
        mine[name].keys() == theirs[name].keys() and all(torch.equal(v, theirs[name][k]) for k, v in mine[name].items())
        for name in mine
    )
    return alike and len(mine) == VICTIMS and one.table() == other.table() and one.whole()


def killed(new: Callable[[str], Place], whole: Place, seconds: float, kills: int, draw: random.Random) -> dict[str, Any]:
    sent = grids = twice = halves = different = left = 0
    while sent < kills:
        place, victims = new(f"killed{grids}"), dict[str, int]()
        while True:
            pid = place.fork()
            status = ended(pid, draw.uniform(0, seconds / 3)) if sent < kills else ended(pid)
            if status is None:
                os.kill(pid, signal.SIGKILL)
                ended(pid)
                sent += 1
            now = place.written()
            twice += sum(now.get(name) != stamp for name, stamp in victims.items())
            victims = now
            halves += not place.whole()
            if status is not None:
                assert status == 0, place.log
                break
        left += len([file for file in place.folder.rglob(".*") if file.is_file()])
        different += not same(place, whole)
        grids += 1
        if not different:
            shutil.rmtree(place.folder)
    return {
        "kills": sent, "grids": grids, "grids that differ": different, "victims trained twice": twice, "half files": halves,
        "temporary files left": left,
    }  # fmt: skip


def signalled(place: Place, whole: Place, seconds: float, numbers: list[int], expected: int) -> dict[str, Any]:
    pid = place.fork()
    time.sleep(seconds / 3)
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        time.sleep(0.01)
    status = ended(pid)
    locks = len(list(place.folder.glob("store/locks/*")))
    assert place.run() == 0
    return {
        "status": status, "as expected": status == expected, "locks left": locks, "tracebacks": place.log.count("Traceback"),
        "same": same(place, whole),
    }  # fmt: skip


@contextmanager
def mounted(place: Place, size: str) -> Any:
    store = place.folder / "store"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", store], check=True)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", store], check=True)
    finally:
        subprocess.run(["umount", store], check=True)


def full(place: Place, whole: Place) -> dict[str, Any]:
    with mounted(place, "4m") as change:
        run = place.spawn("--jobs", "2")
        while not place.written():  # then somebody else fills the disk
            assert run.poll() is None, place.log
            time.sleep(0.05)
        with suppress(OSError), (place.folder / "store/ballast").open("wb") as ballast:
            while True:
                ballast.write(bytes(4096))
                ballast.flush()
        status = run.wait()
        sentences, trained = place.log.count("cannot write"), len(place.written())
        change("size=100m")
        again = place.spawn("--jobs", "2").wait()
        return {
            "status": status, "sentences": sentences, "tracebacks": place.log.count("Traceback"), "victims kept": trained,
            "status with room": again, "same": same(place, whole),
        }  # fmt: skip


def read_only(place: Place, whole: Place) -> dict[str, Any]:
    with mounted(place, "100m") as change:
        change("ro")
        status, trained = place.run(), len(place.written())
        refused = place.log.count("cannot write")
        change("rw")
        assert place.run() == 0
        change("ro")
        finished = place.run()
        change("rw")
        return {
            "status": status, "sentences": refused, "victims trained": trained, "tracebacks": place.log.count("Traceback"),
            "status of a finished run": finished, "same": same(place, whole),
        }  # fmt: skip


def two_runs(place: Place, whole: Place) -> dict[str, Any]:
    pids = [place.fork(), place.fork()]
    statuses = [ended(pid) for pid in pids]
    ran = [int(line.split()[0]) for line in place.log.splitlines() if "cells run" in line]
    return {"statuses": statuses, "cells run": ran, "of": CELLS, "same": same(place, whole)}


def workers(first: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [child for child in psutil.Process(first).children() if "spawn_main" in " ".join(child.cmdline())]
    return []


def worker_at_work(run: subprocess.Popen[bytes], place: Place) -> psutil.Process:
    """A process of the run once something has been made."""
    while not place.written():
        assert run.poll() is None, place.log
        time.sleep(0.05)
    return workers(run.pid)[0]


def dies(place: Place, whole: Place, number: signal.Signals) -> dict[str, Any]:
    run = place.spawn("--jobs", "2")
    worker_at_work(run, place).send_signal(number)
    return {"status": run.wait(), "noticed": place.log.count(f"its process died ({number.name})"), "same": same(place, whole)}


def damaged(place: Place, whole: Place) -> dict[str, Any]:
    assert place.run() == 0
    file = min(place.folder.glob("results/faults/records/badnets-ft-*.json"))
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1', 1))
    before = place.written()
    status = place.run()
    return {
        "status": status, "named": str(file) in place.log, "cells made again": place.log.count("1 cells run"),
        "victims trained again": sum(place.written()[n] != t for n, t in before.items()), "same": same(place, whole),
    }  # fmt: skip


def vanished(place: Place, whole: Place) -> dict[str, Any]:
    pid = place.fork()
    while len(list(place.folder.glob("results/faults/records/*.json"))) < CELLS // 2:
        time.sleep(0.01)
    shutil.rmtree(place.folder / "results", ignore_errors=True)
    status, before = ended(pid), place.written()
    said = place.log.count("are gone from")
    again = place.run()
    return {
        "status": status, "said": said, "status of the next run": again,
        "victims trained again": sum(place.written()[n] != t for n, t in before.items()), "same": same(place, whole),
    }  # fmt: skip


def main(folder: Path, kills: int = 100, seed: int = 0, only: str = "", text: str = SUITE) -> int:
    """Prints figures, of all faults or that of the name ``only``; 1 if any grid ended otherwise.

    ``text`` is another suite of as many victims and cells.
    """
    torch.set_num_threads(1)
    Digits().load(folder)  # imports what reads it
    os.environ["OMP_NUM_THREADS"] = "1"
    folder.mkdir(parents=True)
    suite = folder / "faults.yaml"
    suite.write_text(text)

    def new(name: str) -> Place:
        return Place(folder / name, suite)

    whole = new("whole")
    begin = time.monotonic()
    assert whole.run() == 0, whole.log
    seconds = time.monotonic() - begin
    figures: dict[str, Any] = {
        "command": f"python experiments/faults/grid.py FOLDER {kills} {seed}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, one thread a process",
        "undisturbed": {"cells": CELLS, "victims": VICTIMS, "seconds": round(seconds, 1)},
    }
    cases: dict[str, Callable[[], dict[str, Any]]] = {
        "SIGKILL": lambda: killed(new, whole, seconds, kills, random.Random(seed)),
        "SIGTERM": lambda: signalled(new("term"), whole, seconds, [signal.SIGTERM], 143),
        "Ctrl-C": lambda: signalled(new("int"), whole, seconds, [signal.SIGINT], 130),
        "Ctrl-C twice": lambda: signalled(new("twice"), whole, seconds, [signal.SIGINT] * 2, 130),
        "two runs on one store": lambda: two_runs(new("two"), whole),
        "damaged record": lambda: damaged(new("damaged"), whole),
        "results vanish": lambda: vanished(new("vanished"), whole),
        "read-only store": lambda: read_only(new("ro"), whole),
        "full disk, --jobs 2": lambda: full(new("full"), whole),
        "SIGSEGV in a process, --jobs 2": lambda: dies(new("segv"), whole, signal.SIGSEGV),
        "SIGKILL in a process, --jobs 2": lambda: dies(new("memory"), whole, signal.SIGKILL),
    }
    for name, case in cases.items():
        if only not in ("", name):
            continue
        begin = time.monotonic()
        figures[name] = case()
        print(f"{name}: {figures[name]} ({time.monotonic() - begin:.0f} s)", flush=True)
        (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    wrong = [name for name, found in figures.items() if isinstance(found, dict) and found.get("same") is False]
    kill = figures.get("SIGKILL", {})
    return 1 if wrong or kill.get("grids that differ") or kill.get("victims trained twice") else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:4]), *sys.argv[4:]))

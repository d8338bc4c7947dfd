"""What does Ray cost, and what does a machine that disappears?

    python experiments/faults/ray_nodes.py FOLDER [JOBS]

Machines are simulated on this one (``ray.cluster_utils``), each with one CPU. Measured are seconds for each of JOBS jobs that do
nothing, on 1, 2 and 4 of them, and the resident memory of the first process as they go; then a small suite runs on 2 machines,
of which one disappears, and its records are compared with those of a run in one process. Figures go to ``FOLDER/figures.json``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import psutil
import ray
import torch
from ray.cluster_utils import Cluster

from mnp_plugin.benchmark.bench import Bench
from mnp_plugin.benchmark.engines.ray import Ray
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.observer import Silent
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Kept, Store
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.report.records import Record, from_json

SUITE = """
suite: nodes
dataset: {name: digits, size: 16}
net: {name: smallnet, width: 4}
recipe: {epochs: 6, batch_size: 64, lr: 0.1, crop: 1, flip: false, precision: float32}
clean_budget: {images: 100}
attacks: [clean, badnets, {name: trojannn, steps: 50}]
defenses: [none, {name: ft, epochs: 3}, {name: anp, iterations: 20}]
"""


@dataclass(frozen=True, eq=False)
class Nothing(Job):
    """A job that does nothing."""

    number: int
    kind = "nothing"

    @property
    def stored(self) -> bool:
        return False

    @property
    def identity(self) -> dict[str, int]:
        return {"number": self.number}

    @property
    def title(self) -> str:
        return f"nothing {self.number}"

    @property
    def images_of(self) -> Any:
        raise AssertionError("needs no images")

    def make(self, inputs: Any, bench: Bench) -> Kept:
        return Kept({})


@contextmanager
def cluster(machines: int) -> Iterator[Cluster]:
    """So many machines of one CPU; the first process is on one more, which has none."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [found.add_node(num_cpus=1) for _ in range(machines)]
    ray.init(address=found.address, logging_level="warning")
    found.wait_for_nodes()
    try:
        yield found
    finally:
        ray.shutdown()
        for node in nodes:
            if node in found.worker_nodes:
                found.remove_node(node)
        found.shutdown()


def resident() -> float:
    return psutil.Process().memory_info().rss / 2**20


def overhead(folder: Path, machines: int, count: int) -> dict[str, Any]:
    with cluster(machines):
        bench = Bench(Store(folder / "store", folder / "results"), torch.device("cpu"), Silent())
        list(Ray().run(bench, [Nothing(-i - 1) for i in range(8 * machines)]))  # processes start
        memory, begin = [], time.monotonic()
        for done, _ in enumerate(Ray().run(bench, [Nothing(i) for i in range(count)])):
            if done % (count // 10) == 0:
                memory.append(round(resident(), 1))
        seconds = time.monotonic() - begin
    return {"machines": machines, "jobs": count, "ms a job": round(1000 * seconds / count, 2), "MiB of the first process": memory}


def records(results: Path) -> dict[str, Record]:
    return {file.name: from_json(file.read_text(), str(file)) for file in (results / "nodes/records").glob("*.json")}


def disappears(folder: Path) -> dict[str, Any]:
    suite = parse_suite(SUITE, "nodes", "nodes")
    alone = Store(folder / "alone/store", folder / "alone/results")
    torch.set_num_threads(1)
    Runner(suite, alone, torch.device("cpu")).run()
    store = Store(folder / "lost/store", folder / "lost/results")
    with cluster(2) as found:

        def lose() -> None:
            while not list((folder / "lost/store/locks").glob("*.lease")):
                time.sleep(0.05)
            time.sleep(0.5)
            found.remove_node(found.worker_nodes.copy().pop(), allow_graceful=False)

        thread = threading.Thread(target=lose)
        thread.start()
        summary = Runner(suite, store, torch.device("cpu")).run(Ray())
        thread.join()
    mine, theirs = records(store.results), records(alone.results)
    same = [(r.before, r.after, r.oracle) == (theirs[n].before, theirs[n].after, theirs[n].oracle) for n, r in mine.items()]
    return {"cells": len(theirs), "run": summary.ran, "failed": len(summary.failed), "the same scores": sum(same)}


def main(folder: Path, count: int = 10_000) -> int:
    """Prints figures."""
    folder.mkdir(parents=True)
    figures: dict[str, Any] = {
        "command": f"python experiments/faults/ray_nodes.py FOLDER {count}",
        "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[1]:.0f} at the start, Ray {ray.__version__}",
    }
    figures["a machine disappears"] = disappears(folder)
    print(figures, flush=True)
    for machines in (1, 2, 4):
        figures[f"{machines} machines"] = overhead(folder, machines, count)
        print(figures[f"{machines} machines"], flush=True)
        (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))

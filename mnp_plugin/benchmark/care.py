"""What is known of a store as a whole: which files no suite needs, which are damaged, and whether cells measure as recorded."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mnp_plugin.benchmark.bench import Bench
from mnp_plugin.benchmark.jobs.scores import ScoreJob
from mnp_plugin.benchmark.locks import LEASE, SUFFIX
from mnp_plugin.benchmark.observer import Observer
from mnp_plugin.benchmark.plan import plan, recorded_jobs, score_jobs
from mnp_plugin.benchmark.store import FOLDERS, Store
from mnp_plugin.benchmark.suite import Suite
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.params import fingerprint
from mnp_plugin.io.tensors import unpacked
from mnp_plugin.report.beside import Beside, picture_beside
from mnp_plugin.report.records import Record, Scores


def unneeded(store: Store, suites: Iterable[Suite]) -> list[Path]:
    """Files of the cache that no job of ``suites`` makes or reads, and locks whose holder is long gone."""
    needed = {job.key for suite in suites for job in plan(suite)}
    found = []
    for kind in FOLDERS:
        for file in sorted((store.cache / kind).glob("[!.]*")):
            if file.is_file() and (kind, fingerprint_in(file)) not in needed:
                found.append(file)
    for file in sorted((store.cache / "locks").glob("*")):
        old = file.suffix != SUFFIX or time.time() - file.stat().st_mtime > 10 * LEASE
        found += [file] if old else []
    return found


def fingerprint_in(file: Path) -> str:
    """The fingerprint in the name of a file of the cache."""
    return file.name.partition(".")[0].partition("-")[0]


def damaged(store: Store, suite: Suite) -> Iterator[str]:
    """One sentence for each damaged file of the cache, and of the suite's results."""
    for kind in FOLDERS:
        for file in sorted((store.cache / kind).glob("[!.]*")):
            if file.suffix not in (".safetensors", ".partial"):
                continue
            kept = unpacked(file.read_bytes())
            if kept is None:
                yield f"{file}: its content is not what its checksum says; run makes it again"
            elif "spec" in kept[1] and fingerprint(kept[1]["spec"]) != fingerprint_in(file):
                yield f"{file}: it holds something else than its name says, as if files were swapped; run makes it again"
    beside = Beside(store.suite_folder(suite.name))
    for job in recorded_jobs(suite):
        found = store.read(suite.name, job.kind, job.file_name)
        try:
            record = None if found is None else job.read(*found)
        except UserError as error:
            yield str(error)
            continue
        if isinstance(record, Record):
            beside.picture_of(record, job.file_name)
        beside.picture(picture_beside(job.file_name))
    yield from beside.damaged


@dataclass(frozen=True)
class Again:
    """A cell measured again."""

    title: str
    recorded: Scores
    measured: Scores | None
    """None where victim or repaired net are not kept any more."""
    hardware: str
    """Where it was measured, in words."""

    @property
    def same(self) -> bool:
        """Whether all scores are the very same."""
        return self.measured == self.recorded


def measured_again(
    store: Store, suite: Suite, device: torch.device, count: int, observer: Observer, seed: int = 0
) -> list[Again]:
    """Measure ``count`` of the suite's finished cells again, from the nets that are kept; which ones, ``seed`` decides.

    Nothing is written.
    """
    done = [(job, kept.facts["record"]) for job in score_jobs(suite, suite.cells()) if (kept := job.load(store)) is not None]
    bench = Bench(store, device, observer)
    return [_again(bench, job, record) for job, record in random.Random(seed).sample(done, min(count, len(done)))]


def _again(bench: Bench, job: ScoreJob, record: Record) -> Again:
    bench.busy(f"{job.title}: measuring again")
    assert record.after is not None
    where = f"{record.hardware.get('name', 'unknown')}, torch {record.versions.get('torch', 'unknown')}"
    inputs = {need: need.load(bench.store) if need.stored else bench.kept(need) for need in job.needs}
    whole = {need: kept for need, kept in inputs.items() if kept is not None}
    measured = job.make(whole, bench).facts["record"].after if len(whole) == len(inputs) else None
    return Again(job.title, record.after, measured, where)

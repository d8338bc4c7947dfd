"""What is left to do of a suite, and what it will cost: from what the store and the results say of the past. Reads no tensors."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.plan import floor_jobs, further_jobs, in_order, score_jobs
from mnp_plugin.benchmark.store import FOLDERS, Store, read_about
from mnp_plugin.benchmark.suite import Suite
from mnp_plugin.core.errors import UserError

METHOD = {"victims": "attack", "repaired": "defense", "verdicts": "detector", "samples": "sample_detector", "assets": "asset"}
"""Under which key the identity of a job of a kind has the method that its cost depends on."""
RECORD = 8192
"""Bytes of a record, about."""


def todo(suite: Suite, store: Store) -> list[Job]:
    """The jobs that ``run`` would do now, as far as can be told from which files are there."""
    cells = list(suite.cells())
    goals: list[Job] = [job for job in score_jobs(suite, cells) if job.settled(store) is None]
    goals += [job for job in further_jobs(suite, cells) if job.settled(store) is None]
    asked = set(goals)
    jobs = in_order(goals, kept=lambda job: job not in asked and bool(job.mark(store)))
    made = set(jobs)
    floors = [job for job in floor_jobs(suite, cells) if job.settled(store) is None]
    return [*jobs, *(job for job in floors if all(need in made or need.mark(store) for need in job.needs))]


class Past:
    """Seconds and bytes of jobs that were done before, here or where the committed records come from."""

    def __init__(self) -> None:
        self._seconds: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
        self._bytes: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)

    @classmethod
    def of(cls, store: Store) -> Past:
        """The past of a store and of all results beside it."""
        past = cls()
        for kind in FOLDERS:
            for file in (store.cache / kind).glob("*.safetensors"):
                about = read_about(file)
                if about is not None and isinstance(about.get("spec"), dict):
                    facts = about.get("facts", {})
                    seconds = facts.get("victim_seconds" if kind == "victims" else "seconds")
                    past.add(kind, about["spec"], seconds, file.stat().st_size)
        for file in store.results.glob("*/records/*.json"):
            if (record := plain_record(file)) is not None:
                past.add("victims", record["spec"], record.get("victim_seconds"))
                past.add("repaired", record["spec"], record.get("seconds"))
        for kind in ("verdicts", "samples"):
            for file in store.results.glob(f"*/{kind}/*.json"):
                if (record := plain_record(file)) is not None:
                    past.add(kind, record["spec"], record.get("seconds"))
        return past

    def add(self, kind: str, identity: Mapping[str, Any], seconds: Any = None, size: int | None = None) -> None:
        """One job that was done."""
        for key in _keys(kind, identity):
            if isinstance(seconds, int | float):
                self._seconds[key].append(float(seconds))
            if size is not None:
                self._bytes[key].append(float(size))

    def seconds(self, job: Job) -> float | None:
        """Median seconds of the jobs most like ``job``; None if there were none."""
        return _nearest(self._seconds, _keys(job.kind, job.identity))

    def bytes(self, job: Job) -> float | None:
        """Median bytes of what the jobs most like ``job`` have left; None if there were none."""
        return _nearest(self._bytes, _keys(job.kind, job.identity)) if job.kind in FOLDERS else RECORD


def plain_record(file: Path) -> dict[str, Any] | None:
    """What stands in a record, of whatever kind and version, unchecked; None if it is damaged or does not say what it is of."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        found = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("spec"), dict) else None


def _keys(kind: str, identity: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What a job is like, from all its settings to its data and net alone."""

    def text(part: object) -> str:
        return json.dumps(part, sort_keys=True)

    where = (kind, text(identity.get("dataset", identity.get("victim"))), text(identity.get("net")))
    recipe = identity.get("recipe")
    epochs = text(recipe.get("epochs")) if kind in ("victims", "assets") and isinstance(recipe, Mapping) else ""
    method = identity.get(METHOD.get(kind, ""))
    name = method.get("name") if isinstance(method, Mapping) else method
    return [(*where, epochs, text(method), ""), (*where, epochs, text(name)), (*where, epochs)]


def _nearest(known: Mapping[tuple[str, ...], list[float]], keys: Iterable[tuple[str, ...]]) -> float | None:
    return next((median(known[key]) for key in keys if key in known), None)


@dataclass
class Cost:
    """What jobs will cost: of each kind how many, their seconds and bytes, and how many have no past like them."""

    jobs: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    bytes: float = 0.0
    no_time: int = 0
    no_size: int = 0


FREE_OF_CHARGE = ("records", "floors", "trials", "training_sets")
"""Kinds whose time is small beside the others'."""


def cost(jobs: Iterable[Job], past: Past, nets: Mapping[str, int] | None = None) -> Cost:
    """What ``jobs`` will cost.

    Args:
        jobs: what is to be done.
        past: what was.
        nets: bytes of the weights of each net, by its label, for those that were never kept.
    """
    found = Cost()
    for job in jobs:
        found.jobs[job.kind] = found.jobs.get(job.kind, 0) + 1
        seconds, size = past.seconds(job), past.bytes(job)
        if size is None and job.kind in ("victims", "repaired"):
            size = (nets or {}).get(job.images_of.net.label)
        found.seconds += seconds or 0.0
        found.bytes += (size or 0.0) if job.stored else 0.0
        found.no_time += seconds is None and job.kind not in FREE_OF_CHARGE
        found.no_size += size is None and job.stored
    return found


def refuse_what_does_not_fit(jobs: Collection[Job], past: Past, store: Store, nets: Mapping[str, int] | None = None) -> None:
    """Refuse jobs that the disk cannot hold.

    Raises:
        UserError: it has too little room.
    """
    needed, free = cost(jobs, past, nets).bytes, free_bytes(store.cache)
    if free is not None and needed > free:
        raise UserError(
            f"these jobs keep about {in_words(needed)}, and the disk of {store.cache} has {in_words(free)} left. Make room "
            "(mnp-bench gc shows what no suite needs), set --store, or run a part (--attacks, --defenses, --seeds, --shard)"
        )


def free_bytes(folder: Path) -> float | None:
    """Bytes left on the disk of a folder that may not exist yet; None if that is not known."""
    place = next((one for one in (folder.absolute(), *folder.absolute().parents) if one.exists()), None)
    try:
        return None if place is None else float(shutil.disk_usage(place).free)
    except OSError:
        return None


def in_words(size: float) -> str:
    """``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration(seconds: float) -> str:
    """``1 h 5 min``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

"""Records that an older version of a method made: why a cell that was measured before is to be measured again."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from mnp_plugin.benchmark.jobs.recorded import RecordJob
from mnp_plugin.benchmark.outlook import plain_record
from mnp_plugin.benchmark.plan import further_jobs, score_jobs
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import Suite

METHODS = ("attack", "defense", "detector", "sample_detector")
"""Keys, in an identity, of methods with a name and a version."""

Versions = tuple[str, int, int]
"""Name of a method, its version in a record and its version now."""


@dataclass(frozen=True)
class OlderRecord:
    """A record that was made by an older version of a method.

    Args:
        kind: ``records``, ``verdicts`` or ``samples``.
        file: its name.
        of: name of the file that is planned in its place, and not there yet.
        versions: by the method's key in the identity (``defense``): name, version of the record and version of now. Of a
            detector that stayed as it was, by ``runs 0`` and so on those of the methods that it runs.
    """

    kind: str
    file: str
    of: str
    versions: Mapping[str, Versions]


def older_records(suite: Suite, store: Store) -> list[OlderRecord]:
    """The records of older versions of methods in the place of records of ``suite`` that are not there."""
    cells = list(suite.cells())
    jobs: list[RecordJob] = [*score_jobs(suite, cells), *further_jobs(suite, cells)]
    planned = {(job.kind, job.file_name) for job in jobs}
    lacking: defaultdict[tuple[str, str], list[RecordJob]] = defaultdict(list)
    for job in jobs:
        if not job.mark(store):
            lacking[job.kind, _labels(job.file_name)].append(job)
    found = []
    for kind in sorted({kind for kind, _ in lacking}):
        for file in sorted((store.suite_folder(suite.name) / kind).glob("*.json")):
            alike = lacking.get((kind, _labels(file.name)))
            record = plain_record(file) if alike and (kind, file.name) not in planned else None
            for job in alike or ():
                if record and (versions := _raised(record["spec"], json.loads(json.dumps(job.identity)))):
                    found.append(OlderRecord(kind, file.name, job.file_name, versions))
    return found


def in_words(older: Iterable[OlderRecord]) -> str:
    """One sentence for people; empty if there are none."""
    older = list(older)
    if not older:
        return ""
    methods = sorted({one for found in older for one in found.versions.values()})
    named = ", ".join(f"{name} {version}, now {now}" for name, version, now in methods)
    return f"{len(older)} records are of older versions of their methods ({named}): run measures anew what they did"


def _labels(file: str) -> str:
    """The name of a record's file without its fingerprint."""
    return file.rpartition("-")[0]


def _raised(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Versions]:
    """Which methods have a higher version in ``new``; empty if that is not all in which both identities differ."""
    found = {}
    for key in {*old, *new} - {"runs"}:  # what a detector runs is part of the detector
        if old.get(key) != new.get(key):
            versions = _both_versions(old.get(key), new.get(key)) if key in METHODS else None
            if versions is None:
                return {}
            found[key] = versions
    return found or _raised_runs(old.get("runs", []), new.get("runs", []))


def _raised_runs(old: Sequence[Any], new: Sequence[Any]) -> dict[str, Versions]:
    """Which of the methods that a detector runs have a higher version in ``new``; empty if one differs in anything else."""
    differ = {f"runs {i}": (before, now) for i, (before, now) in enumerate(zip_longest(old, new)) if before != now}
    found = {key: versions for key, both in differ.items() if (versions := _both_versions(*both))}
    return found if len(found) == len(differ) else {}


def _both_versions(old: object, new: object) -> Versions | None:
    """Name of a method, its version in ``old`` and its higher one in ``new``; None if they are nothing of the kind."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping) or old.get("name") != new.get("name"):
        return None
    earlier, later = old.get("version"), new.get("version")
    if not isinstance(earlier, int) or not isinstance(later, int) or earlier >= later:
        return None
    return str(new["name"]), earlier, later

"""Records that an older version of a method made: why a cell that was measured before is to be measured again."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mnp_plugin.benchmark.jobs.recorded import RecordJob
from mnp_plugin.benchmark.outlook import plain_record
from mnp_plugin.benchmark.plan import further_jobs, score_jobs
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import Suite

METHODS = ("attack", "defense", "detector", "sample_detector")
"""Keys, in an identity, of methods with a name and a version."""


@dataclass(frozen=True)
class OlderRecord:
    """A record that was made by an older version of a method.

    Args:
        kind: ``records``, ``verdicts`` or ``samples``.
        file: its name.
        of: name of the file that is planned in its place, and not there yet.
        versions: by the method's key in the identity (``defense``): name, version of the record and version of now.
    """

    kind: str
    file: str
    of: str
    versions: Mapping[str, tuple[str, int, int]]


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


def _raised(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[str, int, int]]:
    """Which methods have a higher version in ``new``; empty if that is not all in which both identities differ."""
    found = {}
    for key in {*old, *new} - {"runs"}:  # what a detector runs is part of the detector
        before, now = old.get(key), new.get(key)
        if before == now:
            continue
        if key not in METHODS or not isinstance(before, Mapping) or not isinstance(now, Mapping):
            return {}
        earlier, later = before.get("version"), now.get("version")
        if before.get("name") != now.get("name") or not isinstance(earlier, int) or not isinstance(later, int):
            return {}
        if earlier >= later:
            return {}
        found[key] = str(now["name"]), earlier, later
    return found

"""The zoos that ship: what they hold, and what they share with other suites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mnp_plugin.benchmark.find import find_config
from mnp_plugin.benchmark.jobs.verdict import VerdictJob, verdict_jobs
from mnp_plugin.benchmark.suite import Suite
from mnp_plugin.benchmark.suite_file import load_suite
from mnp_plugin.contracts import defenses


def suite(name: str) -> Suite:
    return load_suite(find_config(name))


def halves(zoo: Suite) -> dict[tuple[bool, bool], int]:
    """Nets by (is clean, is for calibration)."""
    counts: dict[tuple[bool, bool], int] = {}
    for victim in zoo.victims:
        key = victim.attack.label == "clean", victim.seed in zoo.calibration_seeds
        counts[key] = counts.get(key, 0) + 1
    return counts


def test_the_zoo_of_digits_has_twenty_of_each_half_for_the_test() -> None:
    assert set(halves(suite("zoo_digits")).values()) == {10}


def test_the_zoo_of_cifar10_reuses_the_victims_of_the_leaderboard() -> None:
    zoo, table = suite("zoo_cifar10_cpu"), suite("cifar10_cpu")
    known = {victim.fingerprint for victim in zoo.victims}
    assert {victim.fingerprint for victim in table.victims} <= known
    counts = halves(zoo)
    assert counts[True, True] >= 9
    assert counts[True, False] >= 10
    assert {victim.seed for victim in zoo.victims}.isdisjoint({2})  # on which 'mnp' was developed


def test_development_nets_are_those_of_the_defense() -> None:
    known = {victim.fingerprint for victim in suite("mnp_dev_cifar10_cpu").victims}
    zoo = suite("zoo_dev_cifar10_cpu")
    assert {victim.fingerprint for victim in zoo.victims} <= known
    assert {victim.seed for victim in zoo.victims} == {2}


RECORDS = Path(__file__).parents[2] / "results" / "zoo_digits" / "verdicts"


def test_the_verdicts_of_rivals_that_are_committed_are_those_of_the_suite() -> None:
    zoo = suite("zoo_digits")
    rivals = [job for job in verdict_jobs(zoo, zoo.victims) if job.detector.label != "mnp"]
    assert len(rivals) == 40 * 9
    assert {job.file_name for job in rivals} <= {file.name for file in RECORDS.iterdir()}


def test_a_verdict_is_made_anew_when_a_method_that_its_detector_runs_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = suite("zoo_digits")
    entries = {entry.label: entry for entry in zoo.detectors}

    def fingerprints() -> dict[str, str]:
        jobs = (VerdictJob(zoo.name, zoo.victims[0], entry) for entry in entries.values())
        return {job.detector.label: job.fingerprint for job in jobs}

    before = fingerprints()
    other = replace(entries["mnp"], component=replace(entries["mnp"].component, agreement=0.5))
    assert VerdictJob(zoo.name, zoo.victims[0], other).fingerprint != before["mnp"]
    for method in entries["mnp"].component.runs():
        monkeypatch.setattr(defenses.get(method.name), "version", 99)
    after = fingerprints()
    assert {label for label in after if after[label] != before[label]} == {"mnp"}

"""Detectors and trials in a suite: planned, run, kept and shown, without touching the cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mnp_plugin.benchmark.plan import further_jobs, plan
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import parse_suite
from mnp_plugin.core.errors import UserError
from mnp_plugin.report.build import build_tables

TEXT = """
suite: small
dataset: {name: digits, size: 8}
net: {name: smallnet, width: 4}
recipe: {epochs: 8, batch_size: 64, crop: 0, flip: false, precision: float32}
clean_budget: {images: 100}
attacks: [clean, badnets]
defenses: [none, {name: ft, epochs: 2}]
"""
MORE = (
    TEXT + "detectors: [{name: mnp, label: w, draws: 1, images: 8, steps: 2, mask_steps: 2}]\ntrials: [recalibrated, retuned50]\n"
)


def test_by_default_a_suite_has_neither_and_its_plan_is_what_it_was() -> None:
    assert further_jobs(parse_suite(TEXT, "x", "x"), parse_suite(TEXT, "x", "x").cells()) == []


def test_the_clean_model_is_not_retuned_with_a_trigger() -> None:
    suite = parse_suite(MORE, "x", "x")
    titles = [job.title for job in further_jobs(suite, suite.cells())]
    assert sum("detector w" in title for title in titles) == 2
    assert sum("recalibrated" in title for title in titles) == 4
    assert [title for title in titles if "retuned50" in title and "clean" in title] == []
    jobs = plan(suite)
    place = {job: i for i, job in enumerate(jobs)}
    assert all(place[need] < place[job] for job in jobs for need in job.needs)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trials: [retuned7]", "no trial is called 'retuned7'"),
        ("trials: retuned5", "must be 'all' or a list"),
        ("trials: [finetuned, finetuned]", "stands twice"),
        ("detectors: [mpn]", "Did you mean 'mnp'"),
    ],
)
def test_bad_keys_are_refused_with_a_sentence(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_suite(TEXT + line, "x.yaml", "x")


def test_asked_for_later_they_add_records_and_columns_and_change_no_cell(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", tmp_path / "results")
    Runner(parse_suite(TEXT, "x", "x"), store, torch.device("cpu")).run()
    folder = tmp_path / "results" / "small"
    build_tables(folder)
    before = {file.name: file.read_bytes() for file in (folder / "records").iterdir()}
    head = (folder / "leaderboard.csv").read_text().splitlines()[0]
    assert not (folder / "detection.csv").exists()

    runner = Runner(parse_suite(MORE, "x", "x"), store, torch.device("cpu"))
    assert runner.run().ran == 0  # no cell
    build_tables(folder)
    assert {file.name: file.read_bytes() for file in (folder / "records").iterdir()} == before
    trials = [json.loads(file.read_text()) for file in (folder / "trials").iterdir()]
    assert sorted((t["attack"], t["defense"], t["trial"], t["status"]) for t in trials) == [
        ("badnets", "ft", "recalibrated", "ok"),
        ("badnets", "ft", "retuned50", "ok"),
        ("badnets", "none", "recalibrated", "ok"),
        ("badnets", "none", "retuned50", "ok"),
        ("clean", "ft", "recalibrated", "ok"),
        ("clean", "none", "recalibrated", "ok"),
    ]
    verdicts = {v["attack"]: v for v in (json.loads(file.read_text()) for file in (folder / "verdicts").iterdir())}
    assert verdicts["badnets"]["targets"] == [0]
    assert verdicts["clean"]["targets"] == []
    assert verdicts["badnets"]["status"] == "ok"
    assert verdicts["badnets"]["clean_images"] == 100
    lines = (folder / "leaderboard.csv").read_text().splitlines()
    assert lines[0] == f"{head},asr_recalibrated,asr_retuned50"
    text = (folder / "leaderboard.md").read_text()
    assert "## Detection" in text
    assert "## After the defense" in text
    assert (folder / "detection.csv").read_text().count("\n") == 3  # head, badnets, all

    again = {file: file.stat().st_mtime_ns for kind in ("trials", "verdicts") for file in (folder / kind).iterdir()}
    Runner(parse_suite(MORE, "x", "x"), store, torch.device("cpu")).run()
    assert {file: file.stat().st_mtime_ns for file in again} == again

"""Cells of defenses that are given the training set: who is given what, and what tables say of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mnp_plugin.benchmark.jobs.repair import RepairJob
from mnp_plugin.benchmark.jobs.training_set import TrainingSetJob
from mnp_plugin.benchmark.jobs.victim import VictimJob
from mnp_plugin.benchmark.plan import plan
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.contracts import MethodError
from mnp_plugin.report.build import build_tables

SUITE = """
suite: given
dataset: {name: digits, size: 8}
net: {name: smallnet, width: 4}
recipe: {epochs: 3, batch_size: 64, crop: 0, flip: false, precision: float32}
clean_budget: {images: 100}
gate: {asr: 0.0}
attacks: [clean, badnets, wanet]
defenses: [none, {name: ft, epochs: 1}, spectral, {name: ep, images: 50}]
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    folder = tmp_path_factory.mktemp("given")
    runner = Runner(parse_suite(SUITE, "x", "x"), Store(folder / "cache", folder / "results"), torch.device("cpu"))
    assert runner.run().failed == []
    return runner


def test_where_batches_are_altered_there_is_no_training_set_and_no_cell() -> None:
    titles = [cell.title for cell in parse_suite(SUITE, "x", "x").cells()]
    assert len(titles) == 10
    assert not any("wanet" in title and ("spectral" in title or ": ep" in title) for title in titles)


def test_only_defenses_of_the_training_set_need_it() -> None:
    jobs = [job for job in plan(parse_suite(SUITE, "x", "x")) if isinstance(job, RepairJob)]
    given = {job.cell.defense.label for job in jobs if any(isinstance(need, TrainingSetJob) for need in job.needs)}
    assert given == {"spectral", "ep"}
    assert all(job.follows == (job.victim,) for job in jobs)


def test_what_is_handed_over_is_what_the_victim_was_trained_on(ran: Runner) -> None:
    spec = next(cell.victim for cell in ran.cells if cell.victim.attack.label == "badnets")
    job, bench = TrainingSetJob(spec), ran.bench
    victim = ran.victim(spec).victim
    train = job.opened(bench.kept(job), bench, victim)
    clean = bench.split(spec).train
    changed = (train.x != clean.x).flatten(1).any(1).nonzero().flatten()
    assert torch.equal(changed, victim.poisoned)
    assert (train.y[changed] == 0).all()
    others = replace(victim, poisoned=victim.poisoned[1:]), replace(victim, state={"pattern": torch.ones(1)})
    for other in others:  # as after its clean net was trained anew
        with pytest.raises(MethodError, match="is not the victim's"):
            job.opened(bench.kept(job), bench, other)


def test_the_training_set_is_made_again_exactly(ran: Runner) -> None:
    spec = next(cell.victim for cell in ran.cells if cell.victim.attack.label == "badnets")
    job = TrainingSetJob(spec)
    again = job.make({need: ran.bench.kept(need) for need in VictimJob(spec).needs}, ran.bench)
    kept = ran.bench.kept(job)
    assert all(torch.equal(kept.tensors[name], value) for name, value in again.tensors.items())


def test_tables_say_who_knew_more(ran: Runner) -> None:
    folder = ran.store.results / "given"
    build_tables(folder)
    rows = (folder / "leaderboard.csv").read_text().splitlines()
    assert rows[0].endswith(",knowledge")
    assert {row.split(",")[5] for row in rows if row.endswith(",training set")} == {"spectral", "ep"}
    summary = (folder / "leaderboard.md").read_text()
    assert "| defense | selection | knowledge |" in summary
    assert "| spectral | blind | training set |" in summary
    assert "| ft | blind | clean images |" in summary

"""The plan: identities that must not move, order, and what an attack requires."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from mnp_plugin.benchmark.jobs.asset import AssetJob
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.plan import in_order, plan
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import Suite
from mnp_plugin.benchmark.suite_file import load_suite, parse_suite
from mnp_plugin.contracts import Images, attacks, concat, defenses
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.digits import Digits
from mnp_plugin.data.split import CleanBudget, make_split, redivided

ROOT = Path(__file__).parents[2]
TEXT = """
suite: small
dataset: {name: digits, size: 16}
net: {name: smallnet, width: 4}
recipe: {epochs: 3, batch_size: 64, lr: 0.1, crop: 1, flip: false, precision: float32}
clean_budget: {images: 100}
attacks: [badnets, {name: trojannn, steps: 20}, {name: lc, target: 2}, {name: ssba, bits: 8}, {name: input_aware, width: 4}]
defenses: [none, {name: ft, epochs: 2}]
"""


@pytest.fixture(scope="module")
def suite() -> Suite:
    return parse_suite(TEXT, "small.yaml", "small")


def test_known_fingerprints(suite: Suite) -> None:
    """Those of version 1 of each method (2 of input_aware and ft): what earlier versions of the package made is found by them."""
    found = {job.title: job.fingerprint for job in plan(suite) if job.kind in ("victims", "assets")}
    cells = {f"{c.victim.attack.label} {c.defense.label}": c.fingerprint for c in suite.cells()}
    assert found == KNOWN
    assert {name: cells[name] for name in KNOWN_CELLS} == KNOWN_CELLS


def of_an_older_version(record: Path) -> bool:
    """Whether attack or defense has a newer version than the one measured: its cells are to be run again, its tables say so."""
    spec = json.loads(record.read_text())["spec"]
    return any(
        spec[part]["version"] < known.get(spec[part]["name"]).version
        for part, known in (("attack", attacks), ("defense", defenses))
    )


def test_every_committed_record_is_a_cell_of_its_suite() -> None:
    records = sorted((ROOT / "results").glob("*/records/*.json"))
    planned = {
        f"{suite.name}/{cell.file_name}"
        for suite in map(load_suite, sorted((ROOT / "benchmark_configs").glob("*.yaml")))
        for cell in suite.cells()
    }
    assert len(records) >= 84
    others = [record for record in records if f"{record.parents[1].name}/{record.name}" not in planned]
    assert [record.name for record in others if not of_an_older_version(record)] == []
    titles = {name.rpartition("-")[0] for name in planned}
    assert all(f"{record.parents[1].name}/{record.stem.rpartition('-')[0]}" in titles for record in others)
    wrong = [r.name for r in records if json.loads(r.read_text())["cell"] != r.stem.rpartition("-")[2]]
    assert wrong == []


def test_everything_stands_after_what_it_needs_and_once(suite: Suite) -> None:
    jobs = plan(suite)
    assert len(jobs) == len(set(jobs))
    place = {job: i for i, job in enumerate(jobs)}
    assert all(place[need] < place[job] for job in jobs for need in job.needs)
    count = {kind: sum(job.kind == kind for job in jobs) for kind in ("assets", "victims", "repaired", "records")}
    assert count == {"assets": 3, "victims": 6, "repaired": 10, "records": 10}  # of the victims one is TrojanNN's clean net


def test_what_is_kept_is_left_out_with_what_it_alone_needs(suite: Suite) -> None:
    jobs = plan(suite)
    victims = {job for job in jobs if job.kind == "victims"}
    left = in_order([job for job in jobs if job.kind == "records"], kept=victims.__contains__)
    assert {job.kind for job in left} == {"repaired", "records"}


def test_a_repaired_net_is_made_anew_when_its_victim_is(suite: Suite) -> None:
    jobs = plan(suite)
    repaired = {job for job in jobs if job.kind == "repaired"}
    assert in_order([job for job in jobs if job.kind == "records"], kept=repaired.__contains__) == jobs


def test_a_job_is_the_same_in_another_process(suite: Suite) -> None:
    for job in plan(suite):
        [need.needs for need in job.needs]  # worked out and remembered before it travels
        again: Job = pickle.loads(pickle.dumps(job))
        assert again == job
        assert again.identity == job.identity
        assert again.needs == job.needs


def test_an_asset_is_shared_by_victims_that_differ_in_the_attack_alone() -> None:
    two = TEXT.replace("{name: lc, target: 2}", "{name: lc, target: 2}, {name: lc, label: other, target: 3}")
    robust = {job for job in plan(parse_suite(two, "x", "x")) if isinstance(job, AssetJob) and job.name == "robust net"}
    assert len(robust) == 1


def test_a_first_draw_is_the_cell_itself_and_others_differ(suite: Suite) -> None:
    more = parse_suite(TEXT.replace("epochs: 2}", "epochs: 2, draws: 3}"), "x", "x")
    cells = [c for c in more.cells() if c.victim.attack.label == "badnets"]
    assert [(c.defense.label, c.draw) for c in cells] == [("none", 0), ("ft", 0), ("ft", 1), ("ft", 2)]
    assert [c.fingerprint for c in cells[:2]] == [c.fingerprint for c in suite.cells()][:2]
    assert len({c.fingerprint for c in cells}) == 4
    assert len([job for job in plan(more) if job.kind == "victims"]) == 6, "all draws are of one victim"
    assert [c.draw for c in parse_suite(TEXT + "draws: 2\n", "x", "x").cells()] == [0, 0, 1] * 5
    for wrong in ("draws: 0\n", "draws: many\n"):
        with pytest.raises(UserError, match="draws: must be a whole number from 1"):
            parse_suite(TEXT + wrong, "x", "x")


def test_a_draw_divides_the_same_budget_otherwise() -> None:
    data = Digits().load(Path("unused"))
    split = make_split(data, CleanBudget(images=60), 1)
    first, again, other = (redivided(split, 0.2, seed) for seed in (3, 3, 4))

    def content(images: Images) -> list[bytes]:
        return sorted(x.numpy().tobytes() for x in images.x)

    assert torch.equal(first.clean.x, again.clean.x)
    assert content(first.validation) != content(other.validation)
    for drawn in (first, other):
        assert (len(drawn.clean), len(drawn.validation)) == (len(split.clean), len(split.validation))
        assert content(concat([drawn.clean, drawn.validation])) == content(concat([split.clean, split.validation]))
        assert drawn.train is split.train


def test_seeds_are_chosen_among_those_of_the_suite(tmp_path: Path) -> None:
    suite = parse_suite(TEXT + "seeds: [0, 3]\n", "x", "x")
    store = Store(tmp_path / "store", tmp_path / "results")
    assert {cell.victim.seed for cell in Runner(suite, store, torch.device("cpu"), seeds=[3]).cells} == {3}
    with pytest.raises(UserError, match="suite 'small' has no seed 1; it has 0, 3"):
        Runner(suite, store, torch.device("cpu"), seeds=[1])


KNOWN = {
    "digits/smallnet badnets seed 0": "9e0a21a9ddff2661",
    "digits/smallnet clean seed 0": "4249326162f11f95",
    "digits/smallnet trojannn seed 0": "9687c3e85119264b",
    "digits/smallnet lc seed 0: robust net": "99c3f8a03e9ff443",
    "digits/smallnet lc seed 0": "99d6febd813003c0",
    "digits/smallnet ssba seed 0: steganographic encoder": "45b9ed0466cd70c7",
    "digits/smallnet ssba seed 0": "75fc96a881ddb060",
    "digits/smallnet input_aware seed 0: input-aware mask net": "28db243cbac8d056",
    "digits/smallnet input_aware seed 0": "7d3f6a6f66abf27d",
}
KNOWN_CELLS = {"badnets none": "2330824cbc40cbb1", "badnets ft": "77096fc8a8516b8a"}

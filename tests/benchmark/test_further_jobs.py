"""Detectors, trials and floors of a suite: planned, run, kept and shown, without touching the cells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.observer import Silent
from mnp_plugin.benchmark.plan import floor_jobs, further_jobs, plan
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import VictimSpec
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.cli.app import main
from mnp_plugin.core.errors import UserError
from mnp_plugin.defenses.mnp import MNP
from mnp_plugin.detectors.clp import CLP
from mnp_plugin.detectors.strip import Strip
from mnp_plugin.report.build import build_tables
from mnp_plugin.report.page.data import suite_data
from mnp_plugin.report.screened import COLUMNS as SAMPLE_COLUMNS
from mnp_plugin.report.shown import shown

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
    TEXT
    + "detectors: [{name: mnp, label: w, expose: false, draws: 1, nulls: 0, "
    + "searches: 1, steps: 2, mask_steps: 2, restore_steps: 2}]\n"
    + "trials: [recalibrated, retuned50]\n"
)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the nets of :data:`TEXT`, trained and repaired."""
    folder = tmp_path_factory.mktemp("nets")
    Runner(parse_suite(TEXT, "x", "x"), Store(folder / "store", folder / "results"), torch.device("cpu")).run()
    return folder / "store"


@pytest.fixture
def place(nets: Path, tmp_path: Path) -> Path:
    """A folder with a copy of that store and no results."""
    shutil.copytree(nets, tmp_path / "store")
    return tmp_path


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
        ("sample_detectors: [stripe]", "no sample detector is called 'stripe'"),
        ("calibration_seeds: [7]", "has no seed 7; it has 0"),
        ("calibration_seeds: [0]", "leave some to test on"),
        ("calibration_seeds: 0", "must be a list of whole numbers"),
    ],
)
def test_bad_keys_are_refused_with_a_sentence(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_suite(TEXT + line, "x.yaml", "x")


def test_asked_for_later_they_add_records_and_columns_and_change_no_cell(place: Path) -> None:
    store = Store(place / "store", place / "results")
    Runner(parse_suite(TEXT, "x", "x"), store, torch.device("cpu")).run()
    folder = place / "results" / "small"
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
    assert lines[0] == f"{head},asr_recalibrated,asr_recalibrated_std,asr_retuned50,asr_retuned50_std"
    text = (folder / "leaderboard.md").read_text()
    assert "## Detection" in text
    assert "## After the defense" in text
    assert (folder / "detection.csv").read_text().count("\n") == 3  # head, badnets, clean
    assert (folder / "detection_summary.csv").read_text().count("\n") == 3  # head, badnets, all

    again = {file: file.stat().st_mtime_ns for kind in ("trials", "verdicts") for file in (folder / kind).iterdir()}
    Runner(parse_suite(MORE, "x", "x"), store, torch.device("cpu")).run()
    assert {file: file.stat().st_mtime_ns for file in again} == again


# ------------------------------------------------------------------------------------------------------------------ floors


class Count(Silent):
    """What the bar would show."""

    total = done = 0

    def plan(self, total: int, done: int, further: int = 0, further_done: int = 0) -> None:
        self.total, self.done = total + further, done + further_done

    def finished(self, record: object) -> None:
        self.done += 1

    def measured(self, title: str, reason: str) -> None:
        self.done += 1


def test_floors_are_planned_where_there_is_a_clean_net_of_the_seed() -> None:
    def found(text: str) -> list[str]:
        suite = parse_suite(text, "x", "x")
        return [job.title for job in floor_jobs(suite, suite.cells())]

    assert found(TEXT + "seeds: [0, 4]\n") == [f"digits/smallnet badnets seed {seed}: clean net on its images" for seed in (0, 4)]
    assert found(TEXT.replace("clean, badnets", "badnets")) == []
    own = parse_suite(TEXT.replace("badnets]", "{name: badnets, recipe: {epochs: 9}}]"), "x", "x")
    (job,) = floor_jobs(own, own.cells())
    assert (job.subject.recipe.epochs, job.clean.recipe.epochs) == (9, 8)


def test_the_floor_is_what_the_clean_net_does_on_the_triggered_images(place: Path) -> None:
    suite = parse_suite(TEXT, "x", "x")
    runner = Runner(suite, Store(place / "store", place / "results"), torch.device("cpu"))
    runner.run()
    (file,) = (place / "results" / "small" / "floors").iterdir()
    floor = json.loads(file.read_text())
    clean, badnets = suite.victims
    assert isinstance(clean, VictimSpec)
    assert isinstance(badnets, VictimSpec)
    triggered = runner.victim(badnets).triggered
    assert triggered is not None
    predicted = runner.victim(clean).victim.model(triggered.x).argmax(1)
    assert floor["floor"]["asr"] == pytest.approx((predicted == triggered.y_attack).float().mean().item())
    assert floor["floor"]["ra"] == pytest.approx((predicted == triggered.y_true).float().mean().item())
    assert (floor["attack"], floor["seed"], floor["same_recipe"]) == ("badnets", 0, True)
    assert floor["floor"]["asr"] < 0.5 < floor["floor"]["ra"]
    built = build_tables(place / "results" / "small")
    head, *_, last = (line.split(",") for line in built.csv.read_text().splitlines())
    assert dict(zip(head, last, strict=True))["asr_floor"] == f"{100 * floor['floor']['asr']:.2f}"


def test_a_floor_is_measured_later_where_its_nets_are_kept_and_never_trained_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, store = parse_suite(TEXT, "x", "x"), Store(place / "store", place / "results")
    folder = place / "results" / "small"
    assert Runner(suite, store, torch.device("cpu")).run().ran == 4
    before = {file: file.stat().st_mtime_ns for file in (folder / "records").iterdir()}
    (file,) = (folder / "floors").iterdir()
    text = file.read_text()
    shutil.rmtree(folder / "floors")
    monkeypatch.setattr(stages, "train_victim", None)  # calling it fails
    assert Runner(suite, store, torch.device("cpu")).run().ran == 0
    assert file.read_text() == text
    assert {file: file.stat().st_mtime_ns for file in before} == before

    shutil.rmtree(folder / "floors")
    shutil.rmtree(store.cache)
    store = Store(store.cache, store.results)
    assert Runner(suite, store, torch.device("cpu")).run().ran == 0
    assert not (folder / "floors").exists()
    assert ",,,\n" in build_tables(folder).csv.read_text()


def test_progress_counts_all_that_is_measured(place: Path) -> None:
    store = Store(place / "store", place / "results")
    Runner(parse_suite(TEXT, "x", "x"), store, torch.device("cpu")).run()
    count = Count()
    Runner(parse_suite(MORE, "x", "x"), store, torch.device("cpu"), count).run()
    assert (count.total, count.done) == (4 + 2 + 6 + 1, 13)  # cells, verdicts, trials, floor
    again = Count()
    Runner(parse_suite(MORE, "x", "x"), store, torch.device("cpu"), again).run()
    assert (again.total, again.done) == (13, 13)


# ------------------------------------------------------------------------------------------------------------------- zoos

ZOO = MORE.replace(
    "attacks: [clean, badnets]", "attacks: [{name: clean, seeds: [3, 0, 4]}, badnets]\nseeds: [0, 1]\ncalibration_seeds: [3, 1]"
).replace("trials: [recalibrated, retuned50]\n", "")


def test_an_attack_may_have_seeds_of_its_own_and_that_changes_no_victim() -> None:
    zoo, plain = parse_suite(ZOO, "x", "x"), parse_suite(TEXT + "seeds: [0, 1, 3, 4]", "x", "x")
    assert [(v.attack.label, v.seed) for v in zoo.victims] == [
        ("clean", 0), ("badnets", 0), ("badnets", 1), ("clean", 3), ("clean", 4)
    ]  # fmt: skip
    assert zoo.calibration_seeds == (3, 1)
    assert {v.fingerprint for v in zoo.victims} < {v.fingerprint for v in plain.victims}
    bad = ZOO.replace("seeds: [3, 0, 4]", "seeds: [3, 3]")
    with pytest.raises(UserError, match="a seed stands twice"):
        parse_suite(bad, "x", "x")


def test_detectors_are_run_by_label_kept_planned_and_tried_again(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MORE.replace("trials: [recalibrated, retuned50]", "").replace(
        "detectors: [", "detectors: [{name: clp, label: other}, "
    )
    (place / "zoo.yaml").write_text(text)
    places = ["--results", str(place / "results"), "--store", str(place / "store")]
    command = [str(place / "zoo.yaml"), *places]
    assert main(["run", *command, "--defenses", "none", "--detectors", "w", "--quiet"]) == 0
    folder = place / "results" / "small" / "verdicts"
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert {json.loads(file.read_text())["detector"] for file in folder.iterdir()} == {"w"}
    capsys.readouterr()
    assert main(["plan", *command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    states = [(v["attack"], v["detector"], v["state"]) for v in found["verdicts"]]
    assert states == [("clean", "other", "to do"), ("clean", "w", "ok"), ("badnets", "other", "to do"), ("badnets", "w", "ok")]
    assert main(["plan", *command]) == 0
    assert "4 verdicts of 2 detectors, 2 done" in capsys.readouterr().out
    assert main(["run", *command, "--detectors", "x"]) == 2
    assert "has no detector 'x'" in capsys.readouterr().err

    def broken(self: object, view: object, tools: object) -> None:
        raise RuntimeError("out of ideas")

    with monkeypatch.context() as patched:
        patched.setattr(CLP, "inspect", broken)
        main(["run", *command, "--quiet"])
    others = [json.loads(file.read_text()) for file in folder.iterdir() if "-other-" in file.name]
    assert [(v["status"], "out of ideas" in v["reason"], v["score"]) for v in others] == [("failed", True, None)] * 2
    assert ",failed\n" in (folder.parent / "detection.csv").read_text()
    assert main(["run", *command, "--quiet"]) == 0  # left as it is
    assert {json.loads(file.read_text())["status"] for file in folder.iterdir()} == {"ok", "failed"}
    assert main(["run", *command, "--quiet", "--resume", "failed"]) == 0  # tried again
    assert {json.loads(file.read_text())["status"] for file in folder.iterdir()} == {"ok"}
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert len(list(folder.iterdir())) == 4
    capsys.readouterr()
    older = MNP.version
    monkeypatch.setattr(MNP, "version", older + 1)  # which the detector mnp runs
    assert main(["plan", *command]) == 0
    said = capsys.readouterr().out
    assert "4 verdicts of 2 detectors, 2 done" in said
    assert f"2 records are of older versions of their methods (mnp {older}, now {older + 1})" in said
    monkeypatch.setattr(MNP, "version", older - 1)
    assert main(["plan", *command]) == 0
    assert "older versions" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- detectors of single images

SCREENED = TEXT + "sample_detectors: [{name: strip, overlays: 4}, {name: spectral-signatures, label: ss}]\n"


def test_single_images_are_judged_where_there_is_a_trigger_or_a_training_set(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "small.yaml").write_text(SCREENED)
    command = [str(place / "small.yaml"), "--results", str(place / "results"), "--store", str(place / "store")]
    assert main(["run", *command, "--defenses", "none", "--detectors", "ss", "--quiet"]) == 0
    folder = place / "results" / "small"
    assert len(list((folder / "samples").iterdir())) == 2
    capsys.readouterr()
    assert main(["plan", *command]) == 0
    assert "3 verdicts of 2 detectors, 2 done" in capsys.readouterr().out  # the clean net has no triggered inputs
    assert main(["run", *command, "--defenses", "none", "--quiet"]) == 0
    table = pd.read_csv(folder / "samples.csv")
    assert list(table.columns) == list(SAMPLE_COLUMNS)
    rows = {(row["attack"], row["detector"]): row for row in table.to_dict("records")}
    assert set(rows) == {("clean", "ss"), ("badnets", "ss"), ("badnets", "strip")}
    strip, poisoned, healthy = rows["badnets", "strip"], rows["badnets", "ss"], rows["clean", "ss"]
    assert strip["questions"] == "inputs"
    assert strip["positives"] == strip["negatives"] > 300
    data = Runner(parse_suite(SCREENED, "x", "x"), Store(place / "store", place / "results"), torch.device("cpu"))
    victim = next(v for v in data.suite.victims if v.attack.label == "badnets")
    split = data.bench.split(victim)
    assert poisoned["positives"] == round(0.1 * len(split.train))
    assert poisoned["positives"] + poisoned["negatives"] == len(split.train)
    assert healthy["positives"] == 0
    assert pd.isna(healthy["auroc"])
    assert healthy["fpr"] == pytest.approx(15, abs=1)
    for row in (strip, poisoned):
        assert 0 <= row["auroc"] <= 1
        assert row["seconds"] >= 0
    for file in (folder / "samples").iterdir():
        record = json.loads(file.read_text())
        assert (record["roc"] == []) == (record["attack"] == "clean")
        if record["roc"]:
            area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(record["roc"], record["roc"][1:], strict=False))
            assert area == pytest.approx(record["auroc"], abs=2e-3)
    found = suite_data(shown(folder))["samples"]
    assert [(row["questions"], row["detector"], row["attack"]) for row in found["rows"]] == [
        ("inputs", "strip", "all"), ("inputs", "strip", "badnets 0.1"),
        ("training set", "ss", "all"), ("training set", "ss", "badnets 0.1"),
    ]  # fmt: skip
    assert found["rows"][3]["auroc"] == pytest.approx(poisoned["auroc"], abs=1e-4)
    assert found["rows"][2]["fpr_healthy"] == pytest.approx(healthy["fpr"], abs=0.01)
    text = (folder / "leaderboard.md").read_text()
    assert "## Triggered inputs" in text
    assert "## Poisoned training images" in text


def test_a_screening_that_fails_is_a_record_with_the_reason_and_is_tried_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, store = parse_suite(SCREENED, "x", "x"), Store(place / "store", place / "results")

    def broken(self: object, *args: object) -> None:
        raise RuntimeError("out of ideas")

    with monkeypatch.context() as patch:
        patch.setattr(Strip, "scores", broken)
        Runner(suite, store, torch.device("cpu"), defenses=["none"], detectors=["strip"]).run()
    folder = place / "results" / "small"
    (file,) = (folder / "samples").iterdir()
    assert "out of ideas" in json.loads(file.read_text())["reason"]
    build_tables(folder)
    assert list(pd.read_csv(folder / "samples.csv")["flag"]) == ["failed"]
    Runner(suite, store, torch.device("cpu"), defenses=["none"], detectors=["strip"], resume="failed").run()
    assert json.loads(file.read_text())["status"] == "ok"

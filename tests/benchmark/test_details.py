"""What a run keeps beside records for people to look at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from mnp_plugin import load_records
from mnp_plugin.benchmark.care import damaged
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite_file import load_suite
from mnp_plugin.cli import main
from mnp_plugin.evaluation.scores import confusion
from mnp_plugin.report.beside import PICTURES, Details
from mnp_plugin.report.page.data import suite_data
from mnp_plugin.report.results import Results, read_results
from mnp_plugin.report.shown import shown

TEXT = """
dataset: {name: digits, size: 8, channels: 1}
net: {name: smallnet, width: 4}
recipe: {epochs: 3, batch_size: 32, crop: 1, flip: false}
clean_budget: {images: 40}
gate: {asr: 0.0}
attacks: [clean, badnets]
defenses:
  - none
  - {name: anp, iterations: 20, steps: 1, batch_size: 20, drop: 60}
  - {name: ft, epochs: 1}
  - {name: i-bau, rounds: 2, batch_size: 20}
  - {name: awm, outer: 1, inner: 1, batch_size: 20}
  - {name: mnp-prune, steps: 5, suppression_steps: 2, recover_steps: 2, probes: 1, agreement: 0.5, batch_size: 20}
detectors:
  - {name: mnp, draws: 1, nulls: 0, mask_steps: 3, restore_steps: 3, starts: 1, steps: 2, searches: 1}
  - clp
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("details")
    (folder / "tiny.yaml").write_text(TEXT)
    places = ["--results", str(folder / "results"), "--store", str(folder / "store"), "--quiet"]
    assert main(["run", str(folder / "tiny.yaml"), *places]) == 0
    return read_results(folder / "results" / "tiny")


@pytest.fixture(scope="module")
def details(results: Results) -> dict[str, Details]:
    found = {}
    for record, file in zip(results.records, results.files, strict=True):
        one = results.beside.details(record, file)
        assert one is not None, file
        found[f"{record.attack}-{record.defense}"] = one
    return found


def test_confusion_counts_true_classes_in_rows() -> None:
    assert confusion(torch.tensor([0, 0, 1]), torch.tensor([1, 0, 1]), 3) == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_confusion_agrees_with_the_scores_of_the_record(results: Results, details: dict[str, Details]) -> None:
    for record in results.records:
        found = details[f"{record.attack}-{record.defense}"]
        assert len(found.classes) == 10
        for scores, clean, triggered in (
            (record.before, found.clean_before, found.triggered_before),
            (record.after, found.clean, found.triggered),
        ):
            assert scores is not None
            assert sum(clean[i][i] for i in range(10)) / sum(map(sum, clean)) == pytest.approx(scores.acc)
            if record.attack == "clean":
                assert triggered == []
            else:
                total = sum(map(sum, triggered))
                assert sum(row[0] for row in triggered) / total == pytest.approx(scores.asr)
                assert sum(triggered[i][i] for i in range(10)) / total == pytest.approx(scores.ra)


def test_the_picture_of_the_trigger_has_its_labels_and_predictions(results: Results, details: dict[str, Details]) -> None:
    found = details["badnets-ft"]
    assert found.picture == details["badnets-none"].picture, "one for all cells of a victim"
    assert len(found.shown) == 8
    assert {image["wanted"] for image in found.shown} == {0}
    assert all(image["true"] != 0 for image in found.shown)
    assert [image["before"] for image in found.shown] == [image["before"] for image in details["badnets-none"].shown]
    assert [image["after"] for image in details["badnets-none"].shown] == [image["before"] for image in found.shown]
    assert details["clean-ft"].picture == ""
    table = load_records(results.folder)
    pictures = dict(zip(table["attack"], table["picture"], strict=True))
    assert pictures["clean"] == ""
    assert Path(pictures["badnets"]).read_bytes().startswith(b"\x89PNG")


def test_neurons_before_and_after(details: dict[str, Details]) -> None:
    anp, none = details["badnets-anp"], details["badnets-none"]
    count = sum(size for _, size in anp.layers)
    assert len(anp.before["magnitude"]) == len(anp.after["saliency"]) == count > 0
    assert anp.before == none.before == none.after
    assert none.pruned == []
    assert all(anp.after["magnitude"][i] == 0 for i in anp.pruned)


def test_the_path_of_a_defense_that_chose_among_settings(results: Results, details: dict[str, Details]) -> None:
    path = details["badnets-anp"].path
    assert len(path) > 3
    assert all({"pruned", "acc", "asr"} <= point.keys() for point in path)
    assert details["badnets-anp"].path_images == 359, "all test images of the digits"
    record = next(r for r in results.records if (r.attack, r.defense) == ("badnets", "anp"))
    chosen = next(point for point in path if point["pruned"] == record.prune["pruned"])
    assert record.after is not None
    assert chosen["acc"] == pytest.approx(record.after.acc, abs=1e-3)
    assert details["badnets-ft"].path == []


def test_the_path_of_a_defense_that_passed_nets_on_its_way(results: Results, details: dict[str, Details]) -> None:
    record = next(r for r in results.records if (r.attack, r.defense) == ("badnets", "mnp-prune"))
    path = details["badnets-mnp-prune"].path
    assert path[0]["pruned"] == 0
    assert path[0]["asr"] == pytest.approx(record.before.asr, abs=1e-3)
    assert path[-1]["pruned"] == record.prune["pruned"]
    assert record.after is not None
    assert path[-1]["acc"] == pytest.approx(record.after.acc, abs=1e-3)
    assert path[-1]["asr"] == pytest.approx(record.after.asr, abs=1e-3)
    assert all("asr" not in point for point in details["clean-mnp-prune"].path)


def test_what_a_defense_found_the_victim_to_follow(results: Results, details: dict[str, Details]) -> None:
    found_by = {name: found.perturbation for name, found in details.items()}
    assert {name for name, found in found_by.items() if found} == {
        f"{a}-{d}" for a in ("clean", "badnets") for d in ("i-bau", "awm", "mnp-prune")
    }
    for name in ("badnets-i-bau", "clean-awm"):
        found = found_by[name]
        assert found["images"] <= 40
        assert 0 <= found["after"] <= 1
        assert (results.folder / PICTURES / found["picture"]).read_bytes().startswith(b"\x89PNG")
    assert len({found["picture"] for found in found_by.values() if found}) == 6, "each cell its own"


def test_the_page_shows_beside_a_cell_what_a_detector_found_its_victim_to_follow(results: Results) -> None:
    data = suite_data(shown(results.folder))
    by_attack: dict[str, set[str]] = {}
    for record, one in zip(results.records, data["records"], strict=True):
        (seen,) = one["recovered"]  # clp searches no perturbation
        assert seen["detector"] == "mnp"
        assert data["pictures"][seen["picture"]].startswith("data:image/png;base64,")
        by_attack.setdefault(record.attack, set()).add(seen["picture"])
    assert len(by_attack["badnets"]) == len(by_attack["clean"]) == 1
    assert by_attack["badnets"] != by_attack["clean"]


def test_a_second_run_finds_all_that_and_changes_nothing(results: Results) -> None:
    home = results.folder.parents[1]
    before = {path: path.stat().st_mtime_ns for kind in ("records", "details", "pictures", "verdicts") for path in
              (results.folder / kind).iterdir()}  # fmt: skip
    assert (
        main(["run", str(home / "tiny.yaml"), "--results", str(home / "results"), "--store", str(home / "store"), "--quiet"]) == 0
    )
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_verify_names_what_is_damaged_beside_records(results: Results, tmp_path: Path) -> None:
    shutil.copytree(results.folder.parents[1], tmp_path / "copy")
    suite, store = load_suite(tmp_path / "copy/tiny.yaml"), Store(tmp_path / "copy/store", tmp_path / "copy/results")
    assert list(damaged(store, suite)) == []
    folder = store.suite_folder("tiny")
    spoilt = [*folder.glob("details/badnets-ft-*"), *folder.glob("pictures/badnets-mnp-s0-*")]
    for file in spoilt:
        content = file.read_bytes()
        file.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    assert [sentence.partition(": ")[0] for sentence in damaged(store, suite)] == [str(file) for file in spoilt]
    assert len(spoilt) == 2


def test_records_hold_nothing_of_it(results: Results) -> None:
    text = (results.folder / "records" / results.files[0]).read_text()
    assert not any(word in text for word in ('"path"', '"details"', '"confusion"'))

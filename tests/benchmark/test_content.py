"""What is made from a folder of images belongs to those images, not to the text of the folder's path."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from mnp_plugin.benchmark import stages
from mnp_plugin.cli import main
from mnp_plugin.io.tensors import WHOLE, packed, unpacked
from mnp_plugin.report.stamp import stamp

TEXT = """\
suite: mine
dataset: {name: imagefolder, root: data, size: 16}
net: {name: smallnet, width: 4}
recipe: {epochs: 4, batch_size: 16, crop: 0, flip: false, precision: float32}
clean_budget: {images: 12}
gate: {asr: 0.0}
attacks: [clean, {name: input_aware, width: 4, mask_epochs: 1}]
defenses: [none, {name: ft, epochs: 1}]
detectors: [clp]
trials: [recalibrated]
"""


def draw(data: Path, seed: int) -> None:
    """Two classes, told by their colour; other seeds draw other pictures under the same names."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", 30), ("test", 8)):
        for name, level in (("cat", 60), ("dog", 160)):
            (data / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(level, level + 60, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(data / split / name / f"{i}.bmp")


class Project:
    """A folder with a suite and its images at ``data``; commands run in it."""

    def __init__(self, folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.store, self.patch = folder, store, monkeypatch
        folder.mkdir(exist_ok=True)
        (folder / "mine.yaml").write_text(TEXT)

    def __call__(self, verb: str, *more: str) -> int:
        self.patch.chdir(self.folder)
        return main(
            [verb, "mine.yaml", "--results", "results", *(["--store", str(self.store)] if verb != "report" else []), *more]
        )

    def read(self, kind: str = "records") -> dict[str, dict[str, Any]]:
        """Records by file name."""
        return {f.name: json.loads(f.read_text()) for f in sorted((self.folder / "results" / "mine" / kind).iterdir())}

    @property
    def scores(self) -> dict[str, Any]:
        return {name: (r["before"], r["after"]) for name, r in self.read().items()}

    @property
    def rows(self) -> list[tuple[str, str]]:
        with (self.folder / "results" / "mine" / "leaderboard.csv").open() as file:
            return [(row["attack"], row["defense"]) for row in csv.DictReader(file)]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the victims that were trained."""
    titles: list[str] = []
    train = stages.train_victim

    def counted(victim: Any, *more: Any) -> Any:
        titles.append(victim.attack.label)
        return train(victim, *more)

    monkeypatch.setattr(stages, "train_victim", counted)
    return titles


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project and its store after a run."""
    folder = tmp_path_factory.mktemp("finished")
    draw(folder / "one" / "data", 1)
    with pytest.MonkeyPatch.context() as patch:
        assert Project(folder / "one", folder / "store", patch)("run") == 0
    return folder


@pytest.fixture
def one(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the finished project."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path / "one", tmp_path / "store", monkeypatch)


def test_a_sweep_over_folders_shows_the_rows_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(("one", "two")):
        draw(tmp_path / name, seed)
    project = Project(tmp_path, tmp_path / "store", monkeypatch)
    text = TEXT.replace("root: data", "root: {sweep: [one, two]}").partition("attacks:")[0]
    (tmp_path / "mine.yaml").write_text(text + "attacks: [clean]\ndefenses: [none]\n")
    assert project("run") == 0
    with (tmp_path / "results/mine/leaderboard.csv").open() as file:
        assert [row["dataset"] for row in csv.DictReader(file)] == ["imagefolder-root=one", "imagefolder-root=two"]


@pytest.mark.thorough
def test_two_projects_with_the_same_root_share_a_cache_and_nothing_in_it(
    one: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    draw(tmp_path / "two" / "data", 2)
    two = Project(tmp_path / "two", one.store, monkeypatch)
    alone = Project(tmp_path / "alone", tmp_path / "store of its own", monkeypatch)
    shutil.copytree(tmp_path / "two" / "data", tmp_path / "alone" / "data")
    for project in (two, alone):
        assert project("run") == 0
    assert trained == ["clean", "input_aware"] * 2
    assert two.scores == alone.scores
    assert two.scores != one.scores
    assert two.scores.keys() == one.scores.keys(), "fingerprints are those of the settings"
    contents = [{r["content"] for kind in ("records", "verdicts", "trials") for r in p.read(kind).values()} for p in (one, two)]
    assert [len(found) for found in contents] == [1, 1]
    assert contents[0] != contents[1]
    for kind, count in (("victims", 2), ("assets", 1), ("repaired", 4)):
        names = sorted(f.stem for f in (one.store / kind).glob("*.safetensors"))
        assert len(names) == 2 * count
        assert len({name.partition("-")[0] for name in names}) == count

    before = {f: f.stat().st_mtime_ns for f in one.store.rglob("*.safetensors")}
    for project in (one, two):  # neither has evicted the other
        shutil.rmtree(project.folder / "results")
        assert project("run") == 0
    assert len(trained) == 4
    assert {f: f.stat().st_mtime_ns for f in one.store.rglob("*.safetensors")} == before


def test_records_of_images_that_were_replaced_are_made_again(
    one: Project, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    old = one.read()
    draw(one.folder / "data", 2)
    capsys.readouterr()
    assert one("plan") == 0
    out = capsys.readouterr().out
    assert out.count("other images  ") == 6
    assert "4 cells on 2 victims, 0 done" in out
    assert "6 records were made from other images than those there now: run makes them again" in out

    assert one("run", "--defenses", "none") == 0
    assert "2 cells run, 0 done before" in capsys.readouterr().err
    assert one.rows == [("clean", "none"), ("input_aware", "none")], "figures of other images stand in the table"
    assert "Unfinished: 2 of 4 planned cells" in (one.folder / "results" / "mine" / "leaderboard.md").read_text()

    assert one("run") == 0
    assert "2 cells run, 2 done before" in capsys.readouterr().err
    assert trained == ["clean", "input_aware"]
    assert len(one.rows) == 4
    assert len({r["content"] for r in one.read().values()}) == 1
    assert all(r["content"] != old[name]["content"] for name, r in one.read().items())

    draw(one.folder / "data", 1)  # the first images again: their victims are still there
    assert one("run") == 0
    assert len(trained) == 2
    assert one.scores == {name: (r["before"], r["after"]) for name, r in old.items()}


def test_the_same_images_elsewhere_and_later_are_found_again(
    one: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Project(tmp_path / "copy", one.store, monkeypatch)
    shutil.copytree(one.folder / "data", copy.folder / "data")
    for file in (copy.folder / "data").rglob("*.bmp"):
        os.utime(file, (1e9, 1e9))
    shutil.copytree(one.folder / "results", copy.folder / "results")
    capsys.readouterr()
    assert copy("run") == 0
    assert "0 cells run, 4 done before" in capsys.readouterr().err
    shutil.rmtree(copy.folder / "results")
    assert copy("run") == 0
    assert trained == []
    assert copy.scores == one.scores
    assert len(list((one.store / "decoded").iterdir())) == 1


def test_records_of_older_versions_count_and_are_counted(
    one: Project, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (one.folder / "results" / "mine" / "records").glob("clean-*.json"):
        record = json.loads(file.read_text())
        del record["content"], record["sha256"]
        file.write_text(json.dumps(record))
    capsys.readouterr()
    assert one("plan") == 2
    assert capsys.readouterr().err.endswith("to keep it, run: python -m mnp_plugin.report.stamp results/mine\n")
    assert stamp(one.folder / "results" / "mine") == 2
    capsys.readouterr()
    assert one("plan") == 0
    out = capsys.readouterr().out
    assert "4 done" in out
    assert "2 records, of an older version, do not say which images they were made from" in out
    assert one("run") == 0
    assert one("report") == 0
    assert capsys.readouterr().err.count("2 records, of an older version, do not say which images") == 2
    assert trained == []
    assert len(one.rows) == 4


def test_a_victim_whose_images_nobody_knows_is_not_used(one: Project, trained: list[str]) -> None:
    """So are those that older versions kept."""
    for file in list((one.store / "victims").iterdir()):
        file.rename(file.with_name(file.name.partition("-")[0] + file.suffix))
    shutil.rmtree(one.folder / "results")
    assert one("run") == 0
    assert trained == ["clean", "input_aware"]


def test_a_finished_suite_stays_finished_where_its_images_are_away(
    one: Project, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (one.folder / "data").rename(one.folder / "elsewhere")
    capsys.readouterr()
    assert one("plan") == 0
    assert "4 done" in capsys.readouterr().out
    assert one("run") == 0
    next((one.folder / "results" / "mine" / "records").iterdir()).unlink()
    assert one("run") == 2
    assert "no folder data" in capsys.readouterr().err
    assert trained == []


def test_equal_content_makes_equal_files_that_know_when_they_are_damaged() -> None:
    tensors = {name: torch.rand(2, 3) for name in "dbac"}
    about = {"spec": {"b": 1, "a": [2]}, "facts": {}, "content": "x"}
    files = {packed(dict(sorted(tensors.items(), reverse=backwards)), about) for backwards in (True, False) for _ in range(8)}
    assert len(files) == 1
    (file,) = files
    found = unpacked(file)
    assert found is not None
    assert all(torch.equal(found[0][name], value) for name, value in tensors.items())
    assert found[1] == about
    assert unpacked(file[:-1] + bytes([file[-1] ^ 1])) is None


def test_a_file_whose_facts_were_edited_is_damaged_and_one_of_an_older_version_is_read() -> None:
    tensors, about = {"a": torch.rand(2, 3)}, {"facts": {"acc": 0.5}, "spec": {"b": 1}}
    file = packed(tensors, about)
    meta = safe_metadata(file)
    for key, value in (("facts", '{"acc": 0.6}'), ("spec", "{}"), ("more", "1"), ("facts", "[" * 100_000)):
        assert unpacked(save(tensors, metadata={**meta, key: value})) is None
    assert unpacked(save(tensors, metadata={key: value for key, value in meta.items() if key != "spec"})) is None
    assert all(json.loads(value) is not None for value in meta.values())  # as readers before the second checksum expect
    older = unpacked(save(tensors, metadata={key: value for key, value in meta.items() if key != WHOLE}))
    assert older is not None
    assert older[1] == about


@pytest.mark.parametrize("kind", ["victims", "repaired"])
def test_a_kept_file_without_its_facts_is_made_anew_with_a_word(
    kind: str, one: Project, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = one.scores
    for path in (one.store / kind).glob("*.safetensors"):
        meta = safe_metadata(path.read_bytes())
        older = {key: meta[key] for key in ("spec", "content")}  # without checksums
        path.write_bytes(save(load(path.read_bytes()), metadata={**older, "facts": "{}"}))
    shutil.rmtree(one.folder / "results")
    capsys.readouterr()
    assert one("run") == 0
    assert "is damaged and is made anew" in " ".join(capsys.readouterr().err.split())
    assert trained == ["clean", "input_aware"] * (kind == "victims")
    assert one.scores == before


def safe_metadata(file: bytes) -> dict[str, str]:
    found: dict[str, str] = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])["__metadata__"]
    return found

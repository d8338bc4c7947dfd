from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mnp_plugin import contracts
from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.suite_file import load_suite
from mnp_plugin.cli import main
from mnp_plugin.cli.progress import Screen
from mnp_plugin.contracts import Component, DefenderView, Defense, DefenseContext, Purified
from mnp_plugin.defenses.ft import FineTuning
from mnp_plugin.nets.small import SmallNet
from mnp_plugin.report.records import Record, Scores, from_json
from mnp_plugin.report.texts import sealed

TEXT = """\
suite: tiny
dataset:
  name: digits
  size: 8
net:
  name: smallnet
  width: 4
recipe:
  epochs: 1
  batch_size: 64
  crop: 0
  flip: false
clean_budget:
  images: 40
gate:
  asr: 0.0
attacks: [clean, badnets]
defenses:
  - none
  - name: ft
    epochs: 1
"""

REGISTRIES = (contracts.attacks, contracts.defenses, contracts.detectors, contracts.datasets, contracts.nets)


@dataclass(frozen=True, kw_only=True)
class Scripted(Defense):
    """Does what the test says."""

    act: ClassVar[Callable[[DefenderView], Purified]]

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        return type(self).act(view)


def keep(view: DefenderView) -> Purified:
    return Purified(model=view.model)


@dataclass
class Bench:
    """One folder with a suite, its results and its store."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def tables(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in sorted((self.folder / "results" / "tiny").glob("leaderboard.*"))}

    @property
    def csv(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.tables["leaderboard.csv"].decode())))

    @property
    def records(self) -> dict[str, Record]:
        """By attack and defense; reading them fails unless every file is whole."""
        files = sorted((self.folder / "results" / "tiny" / "records").iterdir())
        found = [from_json(p.read_text(), str(p)) for p in files]
        return {f"{r.attack}-{r.defense}": r for r in found}

    def __call__(self, verb: str, *more: str) -> int:
        places = ["--results", str(self.folder / "results"), "--store", str(self.folder / "store")]
        return main([verb, str(self.config), *places, *more])

    def replace(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))


@pytest.fixture
def fresh(tmp_path: Path) -> Bench:
    (tmp_path / "tiny.yaml").write_text(TEXT)
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("finished"))
    bench.config.write_text(TEXT)
    assert bench("run", "--device", "cpu") == 0
    return bench


@pytest.fixture
def done(finished: Bench, tmp_path: Path) -> Bench:
    """A copy of a finished run, to go on from."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Bench(tmp_path / "copy")


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Forbids training; what was asked for."""
    asked: list[str] = []

    def refuse(victim: Any, *_: object, **__: object) -> None:
        asked.append(victim.title)
        raise AssertionError("a victim was trained")

    monkeypatch.setattr(stages, "train_victim", refuse)
    return asked


@pytest.fixture
def scripted() -> Iterator[None]:
    contracts.defenses.names()
    contracts.defenses.register("scripted")(Scripted)
    Scripted.act = staticmethod(keep)
    yield
    del contracts.defenses._classes["scripted"], contracts.defenses._origins["scripted"]


# -------------------------------------------------------------------------------------------------------- looking around


def test_list_names_everything_and_where_it_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for registry in REGISTRIES:
        assert f"{registry.kind}s:" in lines
        for name in registry.names():
            assert any(line.split()[:1] == [name] and registry.origin(name) in line for line in lines)


def test_describe_every_registered_name(capsys: pytest.CaptureFixture[str]) -> None:
    for registry in REGISTRIES:
        for name in registry.names():
            assert main(["describe", name]) == 0
            page = capsys.readouterr().out
            assert f"{name} ({registry.kind}, from " in page
            assert "paper: " in page
            assert "hyper-parameters:" in page
            for hyper in fields(registry.get(name)):
                assert f"\n  {hyper.name} = " in page
            assert " object at 0x" not in page


def test_describe_shows_default_range_labels_and_what_it_may_see(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "badnets"]) == 0
    page = capsys.readouterr().out
    assert "poison_ratio = 0.1  (float, > 0, <= 1)" in page
    assert "pattern = grid  (one of 'grid', 'white')" in page
    assert "size = null  (int or null, >= 1)" in page
    assert "labels: all2one, all2all" in page
    assert "arXiv 1708.06733" in page
    assert main(["describe", "anp"]) == 0
    assert "may see: the model and its clean budget, nothing else" in capsys.readouterr().out


def test_describe_shows_a_default_that_a_factory_makes(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Layered(Defense):
        """Has a list."""

        layers: tuple[int, ...] = field(default_factory=lambda: (3, 4))

        def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
            return keep(view)

    contracts.defenses.names()
    contracts.defenses.register("layered")(Layered)
    try:
        assert main(["describe", "layered"]) == 0
    finally:
        del contracts.defenses._classes["layered"], contracts.defenses._origins["layered"]
    page = capsys.readouterr().out
    assert "MISSING" not in page
    assert re.search(r"layers = [(\[]3, 4[)\]]", page)


def test_check_runs_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "badnets"]) == 0
    assert "ok  apply() leaves its input as it is" in capsys.readouterr().out


def test_plan_prints_the_cells_and_runs_none(
    tmp_path: Path, trainings: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no configuration here: the one that ships is meant
    assert main(["plan", "digits", "--results", str(tmp_path / "r"), "--store", str(tmp_path / "s")]) == 0
    named = capsys.readouterr().out
    assert main(["plan", "--results", str(tmp_path / "r"), "--store", str(tmp_path / "s")]) == 0
    assert capsys.readouterr().out == named
    lines = named.splitlines()
    assert lines[84] == "84 cells on 14 victims, 0 done"
    assert all(line.startswith("to do ") for line in lines[:84])
    assert lines[83].endswith("digits/smallnet trojan seed 0  ->  mnp")
    assert trainings == []
    assert not list(tmp_path.iterdir())  # nor a folder for results or store


def test_a_folder_named_like_a_suite_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--results", str(tmp_path / "r"), "--store", str(tmp_path / "s")]) == 0


# -------------------------------------------------------------------------------------------------------- users' mistakes


def message_of(capsys: pytest.CaptureFixture[str], status: int) -> str:
    err = capsys.readouterr().err
    assert status == 2, err
    assert err.count("mnp-bench: ") == 1
    err = err[err.index("mnp-bench: ") :]  # after the progress of a run
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["describe", "badnet"], "nothing is called 'badnet'. Did you mean 'badnets'?"),
        (["check", "badnet"], "nothing is called 'badnet'"),
        (["run", "digts"], "no suite is called 'digts'. Did you mean 'digits'?"),
        (["plan", "digts"], "no suite is called 'digts'. Did you mean 'digits'?"),
        (["run", "nowhere/x.yaml"], "no suite file nowhere/x.yaml"),
        (["report", "nowhere"], "no records of a suite 'nowhere' in results"),
        (["report", "digits"], "no records of suite 'digits' in results; run it first: mnp-bench run digits"),
        (["report", "nowhere/x.yaml"], "no suite file nowhere/x.yaml"),
        (["list", "atacks"], "'atacks' is no kind of method. Did you mean 'attacks'?"),
    ],
)
def test_unknown_names(
    arguments: list[str], fragment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fragment in message_of(capsys, main(arguments))


def test_a_suite_that_is_here_and_beside_the_package_is_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "benchmark_configs").mkdir()
    (tmp_path / "benchmark_configs" / "digits.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert message_of(capsys, main(["run", "xyz"])).count(" digits,") == 1


@pytest.mark.parametrize("arguments", [[], ["fly"], ["describe"], ["run", "--colour"]])
def test_wrong_usage_is_status_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"mnp-bench( \w+)?: .+; see mnp-bench( \w+)? --help\n", err), err


TARGET = "attacks: [clean, {name: badnets, target: 10}]"
MISTAKES = [
    ("  epochs: 1", "  epochs: [1", "not valid YAML"),
    ("  epochs: 1", "  epohcs: 1", "line 9: recipe.epohcs: unknown key 'epohcs'. Did you mean 'epochs'?"),
    ("  epochs: 1", "  lr: 1e-3", "YAML reads 1e-3 as text"),
    ("attacks: [clean, badnets]", TARGET, "target 10 is outside the classes 0..9 of digits"),
    ("  images: 40", "  images: 5000", "clean budget of 5000 images is larger than the data: 1438 training images"),
    ("  images: 40", "  per_class: 500", "clean budget of 500 images per class is larger than the data"),
    ("  images: 40", "  percent: 0.01", "a defense needs at least 2"),
    ("  crop: 0", "  crop: 8", "recipe.crop 8 must be smaller than the images"),
    ("attacks: [clean, badnets]", "attacks: [{name: badnets, poison_ratio: 0.0001}]", "of 1398 images is none; raise it"),
]


@pytest.mark.parametrize(("old", "new", "fragment"), MISTAKES, ids=[new.strip() for _, new, _ in MISTAKES])
def test_mistakes_end_before_any_training(
    fresh: Bench, trainings: list[str], capsys: pytest.CaptureFixture[str], old: str, new: str, fragment: str
) -> None:
    fresh.replace(old, new)
    assert fragment in message_of(capsys, fresh("run"))
    assert trainings == []
    assert not list(fresh.folder.rglob("*.json"))


@pytest.mark.parametrize("device", ["banana", "meta", "cuda:99", "hpu"])
def test_a_device_that_is_not_there(fresh: Bench, trainings: list[str], capsys: pytest.CaptureFixture[str], device: str) -> None:
    assert f"no device '{device}'" in message_of(capsys, fresh("run", "--device", device))
    assert trainings == []


@pytest.mark.parametrize("option", ["--results", "--store"])
def test_a_place_that_cannot_be_written_to(
    fresh: Bench, trainings: list[str], capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (fresh.folder / "file").write_text("x")
    assert "cannot write to" in message_of(capsys, fresh("run", option, str(fresh.folder / "file")))
    assert trainings == []


@pytest.mark.parametrize("defense", ["anp", "clp", "fp"])
def test_a_defense_that_cannot_treat_the_net(
    fresh: Bench, trainings: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, defense: str
) -> None:
    fresh.replace("name: smallnet\n  width: 4", "name: torchvision\n  arch: squeezenet1_1")
    fresh.replace("size: 8", "size: 32")
    fresh.replace("  - none", f"  - {defense}")
    message = message_of(capsys, fresh("run"))
    assert f"defense '{defense}' cannot treat the net 'torchvision': " in message
    assert trainings == []


def test_a_net_that_cannot_take_the_images(fresh: Bench, trainings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    fresh.replace("name: smallnet\n  width: 4", "name: torchvision\n  arch: vit_b_16")
    fresh.replace("size: 8", "size: 20")  # no multiple of its patches of 16 pixels
    assert "vit_b_16 does not take images of 20x20" in message_of(capsys, fresh("run"))
    assert trainings == []


def test_a_net_that_gives_more_than_logits_in_train_mode(
    fresh: Bench, trainings: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pair(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            out = super().forward(x)
            return (out, out) if self.training else out

    build = SmallNet.build
    monkeypatch.setattr(SmallNet, "build", lambda *arguments: Pair(build(*arguments)))
    message = message_of(capsys, fresh("run"))
    assert "the net 'smallnet' cannot be trained: in train mode it gives a tuple, not logits" in message
    assert trainings == []


@pytest.fixture
def tree(fresh: Bench) -> Path:
    """A small image tree that the suite is pointed at."""
    root = fresh.folder / "pictures"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(root / split / name / f"{i}.png")
    fresh.replace("name: digits\n", f"name: imagefolder\n  root: {root}\n")
    fresh.replace("images: 40", "images: 2")
    fresh.replace("[clean, badnets]", "[clean, {name: badnets, poison_ratio: 0.5}]")
    return root


def test_the_tree_itself_is_sound(fresh: Bench, tree: Path, trainings: list[str]) -> None:
    assert fresh("run") == 1  # past all checks, where training is forbidden
    assert trainings == ["imagefolder/smallnet clean seed 0", "imagefolder/smallnet badnets seed 0"]


@pytest.mark.parametrize("text", ["defenses:\n  - nc", "detectors: [neural_cleanse]\ndefenses:\n  - none"])
def test_a_method_that_compares_classes_where_there_are_two(
    fresh: Bench, tree: Path, trainings: list[str], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    fresh.replace("defenses:\n  - none", text)
    assert "needs 3 or more, not 2" in message_of(capsys, fresh("run"))
    assert trainings == []


def test_a_missing_data_folder(fresh: Bench, tree: Path, trainings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(tree)
    message = message_of(capsys, fresh("run"))
    assert f"no folder {tree / 'train'}" in message
    assert "Set 'root'" in message
    assert trainings == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class(fresh: Bench, tree: Path, trainings: list[str], capsys: pytest.CaptureFixture[str], split: str) -> None:
    for picture in (tree / split / "dog").iterdir():
        picture.unlink()
    message = message_of(capsys, fresh("run"))
    assert f"class 'dog' is empty: no image in {tree / split / 'dog'}" in message
    assert trainings == []


def test_a_class_that_one_split_lacks(fresh: Bench, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(tree / "test" / "dog")
    (tree / "test" / "emu").mkdir()
    assert "hold different class folders" in message_of(capsys, fresh("run"))


def test_images_that_do_not_decode_are_named_and_counted(
    fresh: Bench, tree: Path, trainings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "train" / "cat" / "1.png").write_text("no picture")
    cut = tree / "train" / "dog" / "2.png"
    cut.write_bytes(cut.read_bytes()[:40])
    message = message_of(capsys, fresh("run"))
    assert "2 of 12 images do not decode" in message
    assert str(tree / "train" / "cat" / "1.png") in message
    assert str(cut) in message
    assert trainings == []


def test_a_damaged_cache_of_decoded_images_is_made_again(fresh: Bench, tree: Path, trainings: list[str]) -> None:
    assert tree.is_dir()
    for _ in range(2):
        assert fresh("run", "--resume", "failed") == 1  # past all checks, where training is forbidden
        (decoded,) = (fresh.folder / "store" / "decoded").iterdir()
        decoded.write_bytes(decoded.read_bytes()[:50])
    assert len(trainings) == 4


# ---------------------------------------------------------------------------------------------------------- the whole route


def test_a_run_writes_whole_records_and_tables(finished: Bench) -> None:
    records = finished.records
    assert sorted(records) == ["badnets-ft", "badnets-none", "clean-ft", "clean-none"]
    assert {r.status for r in records.values()} == {"ok"}
    assert {r.clean_images for r in records.values()} == {40}
    record = records["badnets-ft"]
    assert record.before is not None
    assert record.after is not None
    assert record.before.asr is not None
    assert record.spec["net"]["width"] == 4
    assert record.spec["defense"]["epochs"] == 1
    assert record.versions["torch"] == torch.__version__
    assert record.hardware["device"] == "cpu"
    assert records["badnets-none"].after == records["badnets-none"].before == record.before
    assert records["clean-ft"].after is not None
    assert records["clean-ft"].after.asr is None
    assert [(r["attack"], r["defense"], r["flag"]) for r in finished.csv] == [
        ("clean", "none", ""), ("clean", "ft", ""), ("badnets", "none", ""), ("badnets", "ft", ""),
    ]  # fmt: skip
    assert finished.csv[3]["acc"] == f"{100 * record.after.acc:.2f}"
    assert not list((finished.folder / "results").rglob(".*"))


def test_a_second_run_trains_nothing_and_changes_no_byte(
    done: Bench, trainings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = done.tables
    assert sorted(before) == ["leaderboard.csv", "leaderboard.md", "leaderboard.tex"]
    for name in before:
        (done.folder / "results" / "tiny" / name).unlink()
    assert done("run") == 0
    assert trainings == []
    assert done.tables == before
    assert "0 cells run, 4 done before, 0 failed" in capsys.readouterr().err
    assert done("plan") == 0
    out = capsys.readouterr().out
    assert "4 cells on 2 victims, 4 done" in out
    assert not re.search("^to do", out, re.MULTILINE)
    assert main(["report", "tiny", "--results", str(done.folder / "results")]) == 0
    assert done.tables == before


@pytest.mark.usefixtures("scripted")
def test_a_defense_more_trains_no_victim(
    done: Bench,
    trainings: list[str],
) -> None:
    done.config.write_text(done.config.read_text() + "  - scripted\n")
    assert done("run") == 0
    assert trainings == []
    kept, records = done.records["badnets-none"], done.records
    assert len(records) == 6
    # The weights come from the cache now; a net that is given back as it is measures the same.
    assert records["badnets-scripted"].before == records["badnets-scripted"].after == kept.before


def test_a_gate_that_is_raised_later_counts(done: Bench, trainings: list[str]) -> None:
    for file in (done.folder / "results" / "tiny" / "records").glob("badnets-*"):  # a victim that hardly took
        content = json.loads(re.sub(r'"asr": [0-9.]+', '"asr": 0.5', file.read_text()))
        del content["sha256"]
        file.write_text(json.dumps(sealed(content)))
    done.replace("asr: 0.0", "asr: 0.6")
    assert done("run") == 0
    assert trainings == []
    flags = {(r["attack"], r["defense"]): r["flag"] for r in done.csv}
    assert flags["badnets", "ft"] == "attack-failed"
    assert flags["clean", "ft"] == ""


def test_settings_that_change_leave_the_old_records_out_of_the_tables(
    done: Bench, trainings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    done.replace("    epochs: 1", "    epochs: 2")
    assert done("run") == 0
    assert trainings == []
    assert "2 records of other settings" in capsys.readouterr().err
    assert len(list((done.folder / "results" / "tiny" / "records").iterdir())) == 6
    assert [(r["defense"], r["seeds"]) for r in done.csv] == [("none", "1"), ("ft", "1")] * 2


def test_records_of_an_older_version_of_a_method_are_counted_and_shown_until_they_are_made_again(
    done: Bench, trainings: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FineTuning, "version", 4)
    sentence = "2 records are of older versions of their methods (ft 3, now 4): run measures anew what they did"
    assert done("plan") == 0
    assert sentence in capsys.readouterr().out
    assert done("plan", "--json") == 0
    older = json.loads(capsys.readouterr().out)["of older versions"]
    assert [name[:9] for name in older] == ["badnets-f", "clean-ft-"]
    assert done("run", "--attacks", "badnets") == 0
    said = capsys.readouterr()
    assert sentence in " ".join(said.err.split())
    assert "Unfinished: 3 of 4 planned cells have a record." in said.out
    assert "Of older versions, named in brackets, until they are made again: 1 records." in said.out
    assert "Versions of methods, where not the first: ft 4." in said.out
    assert [(r["attack"], r["defense"]) for r in done.csv] == [
        ("clean", "none"), ("clean", "ft (version 3)"), ("badnets", "none"), ("badnets", "ft"),
    ]  # fmt: skip
    assert done("run") == 0
    said = capsys.readouterr()
    assert [r["defense"] for r in done.csv] == ["none", "ft"] * 2
    assert "2 records of other settings or images" in said.err
    assert done("plan") == 0
    assert "older" not in capsys.readouterr().out
    assert trainings == []


def test_records_of_other_settings_are_of_no_older_version(
    done: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FineTuning, "version", 3)
    done.replace("  epochs: 1\n  batch_size", "  epochs: 2\n  batch_size")  # of the victims
    assert done("plan") == 0
    assert "older" not in capsys.readouterr().out


def test_a_victim_file_that_was_damaged_is_made_again(done: Bench) -> None:
    before = {k: (r.before, r.after) for k, r in done.records.items()}
    for file in (done.folder / "store" / "victims").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    shutil.rmtree(done.folder / "results")
    assert done("run", "--device", "cpu") == 0
    assert {k: (r.before, r.after) for k, r in done.records.items()} == before


def test_a_victim_file_that_was_swapped_for_another_is_made_again_with_a_word(
    done: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are whole; only their names are each other's."""
    before = {k: (r.before, r.after) for k, r in done.records.items()}
    one, two = sorted((done.folder / "store" / "victims").glob("*.safetensors"))
    content = one.read_bytes(), two.read_bytes()
    one.write_bytes(content[1])
    two.write_bytes(content[0])
    shutil.rmtree(done.folder / "results")
    capsys.readouterr()
    assert done("run", "--device", "cpu") == 0
    said = "".join(capsys.readouterr().err.split())  # the screen breaks long paths
    for file in (one, two):
        notice = f"{file} holds something else than its name says (attack), as if files were swapped, and is made anew"
        assert said.count("".join(notice.split())) == 1
    assert {k: (r.before, r.after) for k, r in done.records.items()} == before


def test_the_table_does_not_depend_on_the_order_of_cells(finished: Bench, fresh: Bench) -> None:
    fresh.replace("[clean, badnets]", "[badnets, clean]")
    fresh.replace("  - none\n  - name: ft\n    epochs: 1\n", "  - name: ft\n    epochs: 1\n  - none\n")
    assert fresh("run", "--device", "cpu") == 0

    def compared(bench: Bench) -> list[dict[str, str]]:
        return [{k: v for k, v in row.items() if k not in ("seconds", "peak_mb")} for row in bench.csv]

    assert compared(fresh) == compared(finished)
    assert list(fresh.csv[0]) == list(finished.csv[0])


def fail(view: DefenderView) -> Purified:
    raise RuntimeError("the card\n  caught fire")


@pytest.mark.usefixtures("scripted")
def test_a_failing_defense_is_a_record_and_the_rest_goes_on(
    done: Bench,
    trainings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done.replace("  - none\n", "  - scripted\n  - none\n")
    shutil.rmtree(done.folder / "results")
    monkeypatch.setattr(Scripted, "act", staticmethod(fail))
    assert done("run") == 1
    assert trainings == []
    assert "6 cells run, 0 done before, 2 failed" in capsys.readouterr().err
    assert sorted(k for k, r in done.records.items() if r.status == "ok") == [
        "badnets-ft", "badnets-none", "clean-ft", "clean-none",
    ]  # fmt: skip
    record = done.records["badnets-scripted"]
    assert record.status == "failed"
    assert record.after is None
    assert record.before is not None
    assert record.reason.startswith("RuntimeError: the card caught fire (test_cli.py:")
    flags = {(r["attack"], r["defense"]): r["flag"] for r in done.csv}
    assert flags["badnets", "scripted"].startswith("failed: RuntimeError: the card caught fire")
    monkeypatch.setattr(Scripted, "act", staticmethod(keep))
    assert done("run") == 1
    assert "0 cells run, 6 done before, 0 failed\n2 cells failed before; --resume failed tries them" in capsys.readouterr().err
    assert done("run", "--resume", "failed") == 0
    assert "2 cells run, 4 done before, 0 failed" in capsys.readouterr().err


def nan_report(view: DefenderView) -> Purified:
    return Purified(model=view.model, report={"loss": float("nan")})


def tensor_report(view: DefenderView) -> Purified:
    return Purified(model=view.model, report={"loss": torch.zeros(1)})


def other_keys(view: DefenderView) -> Purified:
    return Purified(model=torch.nn.Linear(1, 1))


def nan_weights(view: DefenderView) -> Purified:
    with torch.no_grad():
        next(view.model.parameters()).fill_(float("nan"))
    return keep(view)


def bracketed(view: DefenderView) -> Purified:
    raise RuntimeError("cannot read [/tmp/x] of [bold]")


@pytest.mark.parametrize("act", [nan_report, tensor_report, other_keys, nan_weights, bracketed])
@pytest.mark.usefixtures("scripted")
def test_whatever_a_defense_breaks_becomes_a_record(
    done: Bench, trainings: list[str], monkeypatch: pytest.MonkeyPatch, act: Callable[..., Purified]
) -> None:
    done.replace("  - none\n", "  - scripted\n  - none\n")
    monkeypatch.setattr(Scripted, "act", staticmethod(act))
    assert done("run") == 1
    assert trainings == []
    failed = [r for r in done.records.values() if r.status == "failed"]
    assert [r.defense for r in failed] == ["scripted"] * 2
    assert all(r.reason for r in failed)


def test_a_failing_victim_fails_its_cells_with_the_reason(
    done: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise contracts.MethodError("training diverged")

    shutil.rmtree(done.folder / "results")
    clean = load_suite(done.config).victims[0]
    (done.folder / "store" / "victims" / f"{clean.fingerprint}.safetensors").unlink()
    monkeypatch.setattr(stages, "train_victim", diverge)
    assert done("run") == 1
    assert {k: r.status for k, r in done.records.items()} == {
        "clean-none": "failed", "clean-ft": "failed", "badnets-none": "ok", "badnets-ft": "ok",
    }  # fmt: skip
    assert done.records["clean-ft"].reason.startswith("victim: MethodError: training diverged")


def interrupt(view: DefenderView) -> Purified:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("scripted")
def test_an_interrupted_run_keeps_whole_records_and_goes_on(
    done: Bench,
    trainings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done.replace("  - none\n", "  - none\n  - scripted\n")
    shutil.rmtree(done.folder / "results")
    monkeypatch.setattr(Scripted, "act", staticmethod(interrupt))
    assert done("run") == 130
    err = capsys.readouterr().err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert list(done.records) == ["clean-none"]
    assert not list((done.folder / "results").rglob(".*"))
    kept = done.records["clean-none"]
    monkeypatch.setattr(Scripted, "act", staticmethod(keep))
    assert done("run") == 0
    assert "5 cells run, 1 done before, 0 failed" in capsys.readouterr().err
    assert len(done.records) == 6
    assert done.records["clean-none"] == kept
    assert trainings == []


@pytest.mark.parametrize(
    "damage", [lambda text: text[:200], lambda text: text.replace('"acc": 0.', '"acc": 0.0'), lambda text: "[" * 100_000]
)
def test_a_damaged_record_is_named_does_not_count_and_is_made_again(
    done: Bench, trainings: list[str], capsys: pytest.CaptureFixture[str], damage: Callable[[str], str]
) -> None:
    folder = done.folder / "results" / "tiny"
    file = next((folder / "records").glob("badnets-ft-*.json"))
    scores = json.loads(file.read_text())["after"]
    file.write_text(damage(file.read_text()))
    capsys.readouterr()
    assert done("plan") == 0
    said = capsys.readouterr()
    assert str(file) in said.err
    assert "1 records are damaged: run makes them again" in said.out
    assert main(["report", str(done.config), "--results", str(done.folder / "results")]) == 1
    said = capsys.readouterr()
    assert str(file) in said.err
    assert "Damaged files that do not count: 1." in said.out
    assert done("run") == 0
    said = capsys.readouterr()
    assert "is damaged and is made anew" in " ".join(said.err.split())
    assert "1 cells run, 3 done before" in said.err
    assert "Damaged" not in said.out
    assert json.loads(file.read_text())["after"] == scores
    assert trainings == []


def test_records_of_another_schema_do_not_lock_the_suite(
    done: Bench, trainings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (done.folder / "results" / "tiny" / "records").iterdir():
        file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 0}))
    if done("run") == 2:  # then the message must show the way out, which cannot be "run again"
        assert "delete" in capsys.readouterr().err
        shutil.rmtree(done.folder / "results")
        assert done("run") == 0
    assert len(done.records) == 4
    assert trainings == []


def test_the_screen_shows_any_reason_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    facts: dict[str, Any] = {"suite": "s", "dataset": "d", "net": "n", "attack": "badnets", "defense": "ft", "seed": 0}
    record = Record(cell="c", status="failed", reason="OSError: no [/tmp/x], no [bold]", **facts)
    measured = Record(
        cell="c", status="ok", before=Scores(acc=0.9, asr=0.5), after=Scores(acc=0.8, asr=0.1), seconds=1.25, gate=0.8, **facts
    )
    with Screen("s") as screen:
        screen.plan(2, 0)
        screen.busy("d/n badnets seed 0: training, loss 1.000", 1, 2)
        screen.finished(measured)
        screen.finished(record)
    out = capsys.readouterr().err
    assert "2 cells, 0 done before" in out
    assert "ACC  90.0 ASR  50.0 -> ACC  80.0 ASR  10.0  1.2 s  attack did not take" in out
    assert "OSError: no [/tmp/x], no [bold]" in out


def test_components_name_themselves() -> None:
    for registry in REGISTRIES:
        for name in registry.names():
            method = registry.get(name)()
            assert isinstance(method, Component)
            assert method.name == name


def test_run_of_some_labels_leaves_the_rest_for_later(fresh: Bench) -> None:
    assert fresh("run", "--device", "cpu", "--attacks", "badnets", "--defenses", "none") == 0
    assert list(fresh.records) == ["badnets-none"]
    assert fresh("run", "--device", "cpu", "--attacks", "badnets") == 0
    assert sorted(fresh.records) == ["badnets-ft", "badnets-none"]
    assert fresh("run", "--device", "cpu") == 0
    assert len(fresh.records) == 4


@pytest.mark.parametrize(("flag", "label"), [("--attacks", "badnet"), ("--defenses", "fp")])
def test_run_refuses_labels_that_the_suite_does_not_have(
    fresh: Bench, trainings: list[str], capsys: pytest.CaptureFixture[str], flag: str, label: str
) -> None:
    assert fresh("run", flag, label) == 2
    assert f"has no {'attack' if flag == '--attacks' else 'defense'} '{label}'" in capsys.readouterr().err
    assert not trainings


@pytest.mark.parametrize("asked", ["list", "--print-completion zsh"])
def test_a_reader_that_leaves_early_is_no_failure(asked: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m mnp_plugin {asked} | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")

"""The BackdoorBench bridge on a miniature record and a stand-in checkout made here."""

from __future__ import annotations

import csv
import itertools
import json
import os
import pickle
import re
import runpy
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision import models

from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite_file import load_suite, parse_suite
from mnp_plugin.cli import main
from mnp_plugin.contracts import attacks, defenses, nets
from mnp_plugin.core.errors import UserError
from mnp_plugin.integrations.backdoorbench.export import export_victim
from mnp_plugin.integrations.backdoorbench.install import install, uninstall
from mnp_plugin.integrations.backdoorbench.names import TORCHVISION, their_net_name
from mnp_plugin.integrations.backdoorbench.options import read_options
from mnp_plugin.integrations.backdoorbench.record import read_record
from mnp_plugin.integrations.backdoorbench.shim import main as script_main
from mnp_plugin.report.published import ATTACKS, DEFENSES, differences, matched, read_published
from mnp_plugin.report.texts import sealed

write_checkout = runpy.run_path(str(Path(__file__).with_name("their_modules.py")))["write_checkout"]

TRAIN, TEST = 60, 30
NET = "shufflenet_v2_x1_0"  # the quickest of theirs at 32 pixels
SUITE = """\
suite: foreign
recipe: {{epochs: 1, batch_size: 16, precision: float32}}
clean_budget: {{images: 20}}
gate: {{asr: 0.0}}
victims: {{backdoorbench: {path}}}
defenses:
  - none
  - {{name: ft, epochs: 1}}
"""


@pytest.fixture(autouse=True)
def home_made_cifar(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision compares CIFAR-10 with its published checksums, which a miniature cannot have."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: os.path.isfile(path))  # noqa: PTH113


def write_cifar(folder: Path) -> tuple[np.ndarray[Any, Any], list[int]]:
    """CIFAR-10 in torchvision's layout: random pictures, ten classes in turn. Returns the test pictures [N, H, W, C], labels."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (TRAIN + TEST, 3072), dtype=np.uint8)
    labels = [i % 10 for i in range(TRAIN + TEST)]
    parts = {f"data_batch_{i + 1}": range(i * TRAIN // 5, (i + 1) * TRAIN // 5) for i in range(5)}
    for name, rows in {**parts, "test_batch": range(TRAIN, TRAIN + TEST)}.items():
        content = {"data": pixels[list(rows)], "labels": [labels[i] for i in rows]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{i}" for i in range(10)]}))
    return pixels[TRAIN:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels[TRAIN:]


Bend = Callable[[dict[str, Any]], None]


def write_record(root: Path, name: str = "badnet_0_1", *, rule: str = "all2one", bend: Bend | None = None) -> Path:
    """``root/record/<name>`` as BackdoorBench writes it: white corner, target 0; ``bend`` changes the dictionary."""
    data = root / "data" / "cifar10" / "cifar-10-batches-py"
    pictures, labels = write_cifar(data) if not data.exists() else _test_part(data)
    record = root / "record" / name
    place = f"./record/{name}/bd_test_dataset"
    items, indicator = {}, np.zeros(TEST)
    for i, (picture, true) in enumerate(zip(pictures, labels, strict=True)):
        label = 0 if rule == "all2one" else (true + 1) % 10
        if label == true:
            continue
        stamped = picture.copy()
        stamped[-8:, -8:] = 255
        file = record / "bd_test_dataset" / str(true) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stamped).save(file)
        items[np.int64(i)] = {"path": f"{place}/{true}/{i}.png", "other_info": [label, true]}
        indicator[i] = 1
    torch.manual_seed(0)
    train_indicator = np.zeros(TRAIN)
    train_indicator[:6] = 1
    content = {
        "model_name": NET,
        "num_classes": 10,
        "model": OrderedDict(models.get_model(NET, weights=None, num_classes=10).state_dict()),
        "data_path": "./data/cifar10",
        "img_size": (32, 32, 3),
        "clean_data": "cifar10",
        "bd_train": _state({}, train_indicator, np.arange(TRAIN), f"./record/{name}/bd_train_dataset"),
        "bd_test": _state(items, indicator, np.arange(TEST)[indicator == 1], place),
    }
    if bend is not None:
        bend(content)
    torch.save(content, record / "attack_result.pt")
    return record


def _state(items: dict[Any, Any], indicator: Any, order: Any, place: str) -> dict[str, Any]:
    return {
        "bd_data_container": {"save_folder_path": place, "data_dict": items, "save_file_format": ".png"},
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": order,
        "poison_indicator": indicator,
        "save_folder_path": place,
    }


def _test_part(folder: Path) -> tuple[np.ndarray[Any, Any], list[int]]:
    content = pickle.loads((folder / "test_batch").read_bytes())
    return content["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), content["labels"]


def tree(root: Path) -> dict[str, bytes | None]:
    """Every file and folder under ``root``."""
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in sorted(root.rglob("*"))}


# ---------------------------------------------------------------------------------------------------------- installation


def test_installing_twice_changes_nothing_and_uninstalling_leaves_no_trace(tmp_path: Path) -> None:
    write_checkout(tmp_path)
    before = tree(tmp_path)
    assert len(install(tmp_path)) == 12
    once = tree(tmp_path)
    assert install(tmp_path) == []
    assert tree(tmp_path) == once
    assert before.items() <= once.items()
    uninstall(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["defense/mnp.py", "config/defense/mnp/tiny.yaml"])
def test_a_file_of_theirs_is_never_overwritten(tmp_path: Path, name: str) -> None:
    write_checkout(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("theirs")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=name):
        install(tmp_path)
    assert tree(tmp_path) == before


def test_a_changed_file_is_kept(tmp_path: Path) -> None:
    write_checkout(tmp_path)
    install(tmp_path)
    (tmp_path / "config/defense/mnp/cifar10.yaml").write_text("mine now")
    before = tree(tmp_path)
    for action in (install, uninstall):
        with pytest.raises(UserError, match=r"config/defense/mnp/cifar10\.yaml"):
            action(tmp_path)
    assert tree(tmp_path) == before


def test_a_folder_that_got_another_file_is_kept(tmp_path: Path) -> None:
    write_checkout(tmp_path)
    install(tmp_path)
    (tmp_path / "config/defense/mnp/own.yaml").write_text("mine")
    uninstall(tmp_path)
    assert (tmp_path / "config/defense/mnp/own.yaml").read_text() == "mine"
    assert not (tmp_path / "defense/mnp.py").exists()


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", "install", "--root", str(tmp_path)]) == 2
    assert "no BackdoorBench checkout" in capsys.readouterr().err
    write_checkout(tmp_path)
    assert main(["bridge", "uninstall", "--root", str(tmp_path)]) == 2
    assert "not installed" in capsys.readouterr().err


def test_a_manifest_cannot_name_files_outside(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    write_checkout(root)
    (tmp_path / "precious").write_text("x")
    (root / ".mnp_plugin_bridge.json").write_text(json.dumps({"files": {"../precious": "0"}, "folders": []}))
    with pytest.raises(UserError, match="not inside the checkout"):
        uninstall(root)
    assert (tmp_path / "precious").exists()


# --------------------------------------------------------------------------------------------------------------- scripts


@pytest.mark.thorough
def test_the_script_runs_in_a_checkout_by_their_command_line(tmp_path: Path) -> None:
    write_checkout(tmp_path)
    install(tmp_path)
    record = write_record(tmp_path)
    launcher = (
        "import os, runpy, sys, torchvision.datasets.cifar as c\n"
        "c.check_integrity = lambda path, md5=None: os.path.isfile(path)\n"
        "sys.argv = sys.argv[1:]\n"
        "sys.path[0] = 'defense'\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    (tmp_path / "launch.py").write_text(launcher)
    package = Path(__file__).parents[3]
    words = ["defense/mnp_plugin_defense.py", "--defense", "ft", "--result_file", "badnet_0_1", "--dataset", "cifar10"]
    words += ["--yaml_path", "./config/defense/mnp_plugin_defense/cifar10.yaml", "--device", "cpu", "--model", NET]
    words += ["--num_workers", "0", "--ratio", "0.5", "--epochs", "1", "--batch_size", "16"]
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "launch.py", *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = record / "defense" / "mnp_plugin_ft"
    (row,) = csv.DictReader((folder / "mnp_plugin_ft_df_summary.csv").read_text().splitlines())
    assert list(row)[1:] == [
        "clean_test_loss_avg_over_batch", "bd_test_loss_avg_over_batch", "test_acc", "test_asr", "test_ra",
    ]  # fmt: skip
    index = [int(line) for line in (folder / "log" / "index.txt").read_text().splitlines()]
    assert len(set(index)) == TRAIN // 2
    assert len(list((folder / "log").glob("*.log"))) == 1
    result = torch.load(folder / "defense_result.pt", weights_only=True)
    plain = models.get_model(NET, weights=None, num_classes=10)
    plain.load_state_dict(result["model"])
    assert list(result) == ["model_name", "num_classes", "model"]
    # What their evaluation (the stand-in's) counted is what ours counts on the saved weights.
    victim = read_record(record)
    weights = {**victim.weights, **result["model"]}
    repaired = replace(victim, weights=weights).model()
    x = torch.stack([torch.from_numpy(np.asarray(Image.open(record / p.file)).copy()).permute(2, 0, 1) for p in victim.test])
    with torch.no_grad():
        predicted = repaired(x.float() / 255).argmax(1)
    assert float(row["test_asr"]) == pytest.approx(float((predicted == 0).float().mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--model", "vgg19"], f"pass --model {NET}"),
        (["--dataset", "cifar100"], "pass --dataset cifar10"),
        (["--result_file", "other"], "no .*other"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    write_checkout(tmp_path)
    install(tmp_path)
    write_record(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["defense", *sys.path])
    first = ["--result_file", "badnet_0_1", "--dataset", "cifar10", "--yaml_path", "config/defense/mnp/cifar10.yaml"]
    assert script_main("mnp", [*first, "--model", NET, *words]) == 2
    assert re.search(complaint, capsys.readouterr().err)


def test_the_command_line_wins_over_the_yaml_file(tmp_path: Path) -> None:
    file = tmp_path / "mnp.yaml"
    file.write_text("dataset: 'cifar10'\nratio: 0.05\nsteps: 7\nlr: 0.5\nnum_workers: 4\n")
    words = ["--result_file", "x", "--yaml_path", str(file), "--dataset", "gtsrb", "--steps", "3", "--num_workers", "2"]
    options = read_options("mnp", words)
    assert (options["dataset"], options["ratio"], options["num_workers"]) == ("gtsrb", 0.05, 2)
    assert (vars(options.method)["steps"], vars(options.method)["lr"]) == (3, 0.5)
    assert options.name == "mnp"
    assert read_options(None, [*words[:6], "--defense", "mnp"]).name == "mnp_plugin_mnp"


@pytest.mark.parametrize(
    ("text", "words", "complaint"),
    [
        ("ratoi: 0.1\n", [], "unknown key 'ratoi'"),
        ("ratio: 2.0\n", [], "ratio must be above 0"),
        ("steps: many\n", [], "'steps' must be int"),
        ("", ["--steps", "0"], "steps must be >= 1"),
        ("", ["--yaml_path", "none.yaml"], "no file none.yaml"),
    ],
)
def test_a_mistake_in_the_settings_is_said(tmp_path: Path, text: str, words: list[str], complaint: str) -> None:
    file = tmp_path / "mnp.yaml"
    file.write_text("result_file: x\ndataset: cifar10\n" + text)
    with pytest.raises(UserError, match=complaint):
        read_options("mnp", ["--yaml_path", str(file), *words])


def test_the_generic_script_needs_a_defense() -> None:
    with pytest.raises(UserError, match="--defense NAME"):
        read_options(None, ["--result_file", "x"])
    with pytest.raises(UserError, match="no defense is called 'mpn'"):
        read_options(None, ["--defense", "mpn"])


# --------------------------------------------------------------------------------------------- their victims in our suites


def test_their_victims_go_through_every_defense_into_the_same_table(tmp_path: Path) -> None:
    write_checkout(tmp_path)
    write_record(tmp_path)
    config = tmp_path / "foreign.yaml"
    config.write_text(SUITE.format(path=tmp_path / "record"))
    arguments = [str(config), "--store", str(tmp_path / "store"), "--results", str(tmp_path / "results")]
    assert main(["run", *arguments, "--device", "cpu"]) == 0
    rows = list(csv.DictReader((tmp_path / "results/foreign/leaderboard.csv").read_text().splitlines()))
    assert [(r["dataset"], r["net"], r["attack"], r["poison_ratio"], r["defense"]) for r in rows] == [
        ("cifar10", NET, "badnet_0_1", "0.1", "none"),
        ("cifar10", NET, "badnet_0_1", "0.1", "ft"),
    ]
    assert {r["clean_source"] for r in rows} == {"training"}
    none = rows[0]
    victim = read_record(tmp_path / "record/badnet_0_1")
    x = torch.stack(
        [torch.from_numpy(np.asarray(Image.open(victim.folder / p.file)).copy()).permute(2, 0, 1) for p in victim.test]
    )
    with torch.no_grad():
        hits = victim.model()(x.float() / 255).argmax(1) == 0
    assert none["asr"] == f"{100 * float(hits.sum()) / len(victim.test):.2f}"
    assert float(none["psnr"]) > 0


def test_identity_is_content_not_place(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    suites = []
    for root in (one, other):
        write_record(root)
        suites.append(parse_suite(SUITE.format(path=root / "record" / "badnet_0_1"), "s", "s"))
    assert [c.fingerprint for c in suites[0].cells()] == [c.fingerprint for c in suites[1].cells()]
    picture = next((other / "record").rglob("*.png"))
    Image.new("RGB", (32, 32)).save(picture)
    changed = parse_suite(SUITE.format(path=other / "record"), "s", "s")
    assert not {c.fingerprint for c in suites[0].cells()} & {c.fingerprint for c in changed.cells()}


def test_own_attacks_and_their_victims_share_a_suite(tmp_path: Path) -> None:
    write_record(tmp_path)
    text = SUITE.format(path=tmp_path / "record")
    own = "dataset: digits\nnet: smallnet\nattacks: [badnets]\n"
    mixed = parse_suite(own + text, "s", "s")
    alone = parse_suite(
        "suite: s\n" + own + text.split("victims")[0].removeprefix("suite: foreign\n") + "defenses: [none]\n", "s", "s"
    )
    assert [v.attack.label for v in mixed.victims] == ["badnets", "badnet_0_1"]
    assert mixed.victims[0].fingerprint == alone.victims[0].fingerprint
    with pytest.raises(UserError, match="'badnet_0_1' stands twice"):
        parse_suite(own.replace("[badnets]", "[{name: badnets, label: badnet_0_1}]") + text, "s", "s")


@pytest.mark.parametrize("rule", ["all2one", "all2all"])
def test_the_target_rule_is_read_from_the_labels(tmp_path: Path, rule: str) -> None:
    record = read_record(write_record(tmp_path, rule=rule))
    assert record.target_rule == {"all2one": "all2one to 0", "all2all": "all2all"}[rule]
    assert len(record.test) == (27 if rule == "all2one" else 30)
    assert record.poison_ratio == pytest.approx(0.1)


def test_a_record_may_be_renamed_and_moved(tmp_path: Path) -> None:
    write_record(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b/record/badnet_0_1").rename(tmp_path / "b/record/mine")
    suite = parse_suite(SUITE.format(path=tmp_path / "b/record"), "s", "s")
    (offer,) = {v.attack.label for v in suite.victims}
    assert offer == "mine"
    Runner(suite, Store(tmp_path / "store", tmp_path / "results"), torch.device("cpu"), defenses=["none"]).run()
    (file,) = (tmp_path / "results/foreign/records").glob("*.json")
    assert json.loads(file.read_text())["status"] == "ok"


def out_of_the_record(content: dict[str, Any]) -> None:
    content["bd_test"]["bd_data_container"]["data_dict"][np.int64(1)]["path"] = "./record/x/bd_test_dataset/../../../secret.png"


def elsewhere(content: dict[str, Any]) -> None:
    content["bd_test"]["bd_data_container"]["data_dict"][np.int64(1)]["path"] = "/etc/passwd"


def set_key(key: str, value: Any) -> Bend:
    def bend(content: dict[str, Any]) -> None:
        content[key] = value

    return bend


def drop_key(content: dict[str, Any]) -> None:
    del content["img_size"]


def label_out_of_range(content: dict[str, Any]) -> None:
    content["bd_test"]["bd_data_container"]["data_dict"][np.int64(1)]["other_info"] = [99, 1]


def other_net(content: dict[str, Any]) -> None:
    content["model"] = OrderedDict(list(content["model"].items())[:-1])


@pytest.mark.parametrize(
    ("bend", "complaint"),
    [
        (out_of_the_record, "refused"),
        (elsewhere, "refused"),
        (set_key("data_path", "./data/../../../etc"), "data_path"),
        (set_key("data_path", "/etc"), "data_path"),
        (set_key("clean_data", "imagenet"), "does not know"),
        (set_key("model_name", "resnet19"), "no net 'resnet19'"),
        (set_key("model_name", "senet18"), "own net"),
        (set_key("num_classes", 11), "10 classes"),
        (set_key("num_classes", np.arange(2)), "10 classes"),
        (set_key("img_size", "wide"), "images of"),
        (set_key("img_size", None), "images of"),
        (set_key("bd_test", None), "not the form"),
        (set_key("model", {"a": 1}), "must map names to tensors"),
        (drop_key, "it has no img_size"),
        (label_out_of_range, r"labels must lie in 0\.\.9"),
    ],
)
def test_a_bad_record_is_refused_with_its_name(tmp_path: Path, bend: Bend, complaint: str) -> None:
    write_record(tmp_path, bend=bend)
    with pytest.raises(UserError, match=complaint) as caught:
        parse_suite(SUITE.format(path=tmp_path / "record"), "s", "s")
    assert "backdoorbench" in str(caught.value)


def test_what_only_loading_shows_is_refused_before_any_work(tmp_path: Path) -> None:
    write_record(tmp_path, "weights", bend=other_net)
    write_record(tmp_path, "picture")
    next((tmp_path / "record/picture").rglob("*.png")).write_bytes(b"no picture")
    for name, complaint in (("weights", "weights are of another net"), ("picture", "does not decode")):
        suite = parse_suite(SUITE.format(path=tmp_path / "record" / name), "s", "s")
        with pytest.raises(UserError, match=complaint):
            Runner(suite, Store(tmp_path / "store", tmp_path / "results"), torch.device("cpu")).run()
    assert not list((tmp_path / "results").rglob("*.json"))


def test_a_picture_that_is_a_link_out_of_the_record_is_refused(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    secret = tmp_path / "secret.png"
    Image.new("RGB", (32, 32)).save(secret)
    picture = next(record.rglob("*.png"))
    picture.unlink()
    picture.symlink_to(secret)
    with pytest.raises(UserError, match="link"):
        read_record(record)


def test_no_record_there(tmp_path: Path) -> None:
    for path, complaint in ((tmp_path, "holds no record"), (tmp_path / "none", "no folder")):
        with pytest.raises(UserError, match=complaint):
            parse_suite(SUITE.format(path=path), "s", "s")
    with pytest.raises(UserError, match="no victim source is called 'backdorbench'"):
        parse_suite(SUITE.format(path="x").replace("backdoorbench", "backdorbench"), "s", "s")


# ----------------------------------------------------------------------------------------------- our victims as records


OURS = """\
suite: ours
dataset: {{name: cifar10, root: {root}/data/cifar10, download: false}}
net: {{name: torchvision, arch: {net}}}
recipe: {{epochs: 1, batch_size: 16, precision: float32}}
clean_budget: {{images: 10}}
gate: {{asr: 0.0}}
attacks: [clean, {{name: badnets, poison_ratio: 0.2}}]
defenses: [none]
"""


def test_our_victim_comes_back_from_its_record(tmp_path: Path) -> None:
    write_cifar(tmp_path / "data/cifar10/cifar-10-batches-py")
    config = tmp_path / "ours.yaml"
    config.write_text(OURS.format(root=tmp_path, net=NET))
    places = ["--store", str(tmp_path / "store"), "--results", str(tmp_path / "results")]
    words = ["bridge", "export", str(config), "--attack", "badnets", "--out", str(tmp_path / "record/ours"), *places]
    assert main(words) == 2  # not trained yet
    assert main(["run", str(config), *places, "--device", "cpu"]) == 0
    assert main(words) == 0
    raw = torch.load(tmp_path / "record/ours/attack_result.pt", weights_only=False)
    keys = {"model_name": str, "num_classes": int, "model": OrderedDict, "data_path": str, "img_size": tuple, "clean_data": str}
    assert {k: type(raw[k]) for k in keys} == keys
    assert list(raw) == [*keys, "bd_train", "bd_test"]
    train, test = raw["bd_train"], raw["bd_test"]
    assert {type(k) for s in (train, test) for k in s["bd_data_container"]["data_dict"]} == {np.int64}
    assert train["poison_indicator"].dtype == np.float64
    assert (len(train["original_index_array"]), int(train["poison_indicator"].sum())) == (TRAIN, 10)
    assert (len(test["poison_indicator"]), len(test["original_index_array"])) == (TEST, 27)
    pictures, labels = _test_part(tmp_path / "data/cifar10/cifar-10-batches-py")
    for index, item in test["bd_data_container"]["data_dict"].items():
        assert item["other_info"] == [0, labels[index]]
        stamped = np.asarray(Image.open(tmp_path / item["path"]))
        assert (stamped[:20] == pictures[index][:20]).all()  # the trigger sits in the lower corner
        assert (stamped != pictures[index]).any()
    record = read_record(tmp_path / "record/ours")
    store = Store(tmp_path / "store", tmp_path / "results")
    weights, _, facts = store.load_victim(load_suite(config).victims[1]) or ({}, {}, {})
    assert all(torch.equal(record.weights[k], v) for k, v in weights.items())
    foreign = parse_suite(SUITE.format(path=tmp_path / "record"), "s", "s")
    Runner(foreign, store, torch.device("cpu"), defenses=["none"]).run()
    (file,) = (tmp_path / "results/foreign/records").glob("*.json")
    measured = json.loads(file.read_text())
    assert measured["before"]["acc"] == facts["before"]["acc"]
    assert measured["before"]["asr"] == facts["asr_8bit"]
    summary = (tmp_path / "record/ours/attack_df_summary.csv").read_text().splitlines()
    assert summary[1].split(",")[3] == repr(facts["asr_8bit"])


@pytest.mark.parametrize(
    ("change", "label", "out", "complaint"),
    [
        (("", ""), "badnet", "record/x", "Did you mean 'badnets'"),
        (("", ""), "clean", "record/x", "no trigger"),
        (("", ""), "badnets", "elsewhere/x", "record/"),
        (("name: torchvision, arch: shufflenet_v2_x1_0", "name: resnet18"), "badnets", "record/x", "no net like 'resnet18'"),
    ],
)
def test_what_cannot_be_exported(tmp_path: Path, change: tuple[str, str], label: str, out: str, complaint: str) -> None:
    suite = parse_suite(OURS.format(root=tmp_path, net=NET).replace(*change), "s", "s")
    with pytest.raises(UserError, match=complaint):
        export_victim(suite, label, None, Store(tmp_path / "s", tmp_path / "r"), tmp_path / out)
    assert not (tmp_path / out).exists()


def test_nets_go_by_their_names() -> None:
    assert their_net_name(nets.get("preactresnet18")()) == "preactresnet18"
    assert their_net_name(nets.get("vgg19-bn")()) == "vgg19_bn"
    assert all(hasattr(models, name) for name in TORCHVISION)


# ------------------------------------------------------------------------------------------------------ published figures


PUBLISHED = """\
dataset,poison_ratio,model,attack,defense,acc,asr,ra
cifar10,0.1,PreActResNet-18,BadNet,No Defense,91.32,95.03,4.67
cifar10,0.1,PreActResNet-18,BadNet,FT,89.96,1.48,88.00
tiny,0.1,ViT_b_16,SIG,ANP,,,
"""


@pytest.mark.thorough
def test_published_figures_stand_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "theirs.csv"
    source.write_text(PUBLISHED)
    assert main(["bridge", "import-leaderboard", str(source), "--out", str(tmp_path / "published")]) == 0
    assert "3 published cells, 2 with figures" in capsys.readouterr().out
    records = tmp_path / "results/s/records"
    records.mkdir(parents=True)
    for defense, seed in itertools.product(("none", "ft", "mnp"), (0, 1)):
        plain = {
            "cell": f"{defense}{seed}", "suite": "s", "dataset": "cifar10", "net": "preactresnet18", "attack": "badnet_0_1",
            "defense": defense, "seed": seed, "status": "ok", "poison_ratio": 0.1, "before": {"acc": 0.9, "asr": 1.0, "ra": 0.0},
            "after": {"acc": 0.8, "asr": 0.25 + 0.1 * seed, "ra": 0.5}, "oracle": None, "schema": 1,
        }  # fmt: skip
        (records / f"{defense}{seed}.json").write_text(json.dumps(sealed(plain)))
    words = ["report", "s", "--results", str(tmp_path / "results")]
    assert main([*words, "--published", str(tmp_path / "published/backdoorbench.csv")]) == 0
    text = (tmp_path / "results/s/leaderboard.md").read_text()
    assert "## Published beside here" in text
    assert "| badnet_0_1 0.1 | ft | 90.0 / 1.5 / 88.0 | 80.0 ± 0.0 / 30.0 ± 7.1 / 50.0 ± 0.0 | blind |" in text
    assert "Another net" not in text
    assert "what varies: victim seed (n = 2)." in text.split("## Published")[1]
    assert "| mnp | " not in text.split("## Published")[1]
    assert main(words) == 0
    assert "Published" not in (tmp_path / "results/s/leaderboard.md").read_text()
    own = ["bridge", "import-leaderboard", str(source), "--out", str(tmp_path / "results/s/published"), "--only"]
    assert main([*own, "dataset=cifar10", "poison_ratio=0.1", "defense=FT"]) == 0
    assert "1 published cells" in capsys.readouterr().out
    assert main(words) == 0, "what lies in a suite's own folder is always shown"
    text = (tmp_path / "results/s/leaderboard.md").read_text().partition("## Published")[2]
    assert "| ft | 90.0 / 1.5 / 88.0 |" in text
    assert "| none |" not in text
    assert main([*own, "model=VGG19_BN"]) == 2
    assert "there are PreActResNet-18, ViT_b_16" in capsys.readouterr().err
    assert main([*own, "net=VGG19_BN"]) == 2
    assert "not by 'net'" in capsys.readouterr().err


def cell(net: str, defense: str, selection: str = "blind") -> dict[str, Any]:
    return {
        "dataset": "cifar10", "net": net, "attack": "badnets", "poison_ratio": 0.1, "defense": defense, "selection": selection,
    }  # fmt: skip


def test_figures_of_a_single_net_stand_beside_any_net_and_name_it(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(PUBLISHED)
    found = matched(pd.DataFrame([cell("resnet18", "ft")]), read_published(tmp_path / "one.csv"))
    assert list(found["net_published"]) == ["preactresnet18"]
    assert "Another net: preactresnet18 there, resnet18 here" in differences(found)
    (tmp_path / "two.csv").write_text(f"{PUBLISHED}cifar10,0.1,VGG19_BN,BadNet,FT,89,2,88\n")
    assert matched(pd.DataFrame([cell("resnet18", "ft")]), read_published(tmp_path / "two.csv")).empty
    found = matched(pd.DataFrame([cell("vgg19_bn", "ft")]), read_published(tmp_path / "two.csv"))
    assert list(found["acc_published"]) == [89]
    assert "Another net" not in differences(found)


def test_published_anp_stands_beside_our_oracle_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "anp.csv").write_text(f"{PUBLISHED.splitlines()[0]}\ncifar10,0.1,PreActResNet-18,BadNet,ANP,87,1,86\n")
    blind, oracle = (cell("preactresnet18", "anp", selection) for selection in ("blind", "oracle"))
    published = read_published(tmp_path / "anp.csv")
    assert list(matched(pd.DataFrame([blind, oracle]), published)["selection"]) == ["oracle"]
    assert list(matched(pd.DataFrame([blind]), published)["selection"]) == ["blind"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("cifar10", "preactresnet18", "wanet", 0.1, "ep"), "cifar10,0.1,PreActResNet-18,WaNet,DDE"),
        (("cifar10", "preactresnet18", "wanet", 0.1, "bnp"), "cifar10,0.1,PreActResNet-18,WaNet,MBNS"),
        (("cifar10", "vgg19-bn", "bpp", 0.01, "spectral"), "cifar10,0.01,VGG19_BN,BPP,SS"),
        (("gtsrb", "vgg19_bn", "bpp_0_01", 0.01, "d-br"), "gtsrb,0.01,VGG19_BN,BPP,D-BR"),
        (("tinyimagenet", "preactresnet18", "lf", 0.1, "abl"), "tiny,0.1,PreActResNet-18,LF,ABL"),
        (("tiny", "preactresnet18", "lf_0_1", 0.1, "ac"), "tiny,0.1,PreActResNet-18,LF,AC"),
        # ours is a share of the target class, theirs one of all images
        (("cifar10", "preactresnet18", "sig", 0.5, "i-bau"), "cifar10,0.05,PreActResNet-18,SIG,i-BAU"),
        (("cifar10", "preactresnet18", "sig_0_05", 0.05, "nc"), "cifar10,0.05,PreActResNet-18,SIG,NC"),
    ],
)
def test_a_published_cell_is_found_by_our_names(tmp_path: Path, ours: tuple[Any, ...], theirs: str) -> None:
    source = tmp_path / "theirs.csv"
    source.write_text(f"{PUBLISHED.splitlines()[0]}\n{theirs},90,2,88\n")
    columns = ["dataset", "net", "attack", "poison_ratio", "defense"]
    other = (*ours[:3], ours[3] / 2, ours[4])
    (row,) = matched(pd.DataFrame([ours, other], columns=columns), read_published(source)).to_dict("records")
    assert tuple(row[column] for column in columns) == ours
    assert (row["acc_published"], row["asr_published"], row["ra_published"]) == (90, 2, 88)


def test_names_that_published_cells_are_matched_by_are_registered() -> None:
    assert set(ATTACKS.values()) <= set(attacks.names())
    assert set(DEFENSES.values()) <= set(defenses.names())


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("poison_ratio", "ratio", "columns must be"),
        ("91.32", "913.2", r"line 2: acc must lie in 0\.\.100"),
        ("1.48", "good", "line 3: asr"),
        ("FT,", "No Defense,", "line 3: this cell stands twice"),
        ("tiny", "", "line 4: dataset is empty"),
    ],
)
def test_a_bad_leaderboard_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    (tmp_path / "theirs.csv").write_text(PUBLISHED.replace(old, new))
    with pytest.raises(UserError, match=complaint):
        read_published(tmp_path / "theirs.csv")

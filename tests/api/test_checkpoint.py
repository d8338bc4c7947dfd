"""``mnp-bench purify`` and ``mnp-bench detect`` on a really backdoored checkpoint and folders of pictures."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from mnp_plugin import DetectReport, RepairReport, detect_checkpoint, purify, repair_checkpoint, screen_checkpoint
from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.cli import main
from mnp_plugin.contracts import (
    DefenderView,
    Defense,
    DefenseContext,
    Images,
    MethodError,
    Purified,
    Recipe,
    Triggered,
    Verdict,
    param,
    to_bytes,
)
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.digits import Digits
from mnp_plugin.data.split import validation_part
from mnp_plugin.evaluation.predict import accuracy, logits
from mnp_plugin.nets import with_normalisation
from mnp_plugin.nets.small import SmallNet
from mnp_plugin.report.detection import auroc

SUITE = """
dataset: {name: digits, size: 8}
net: {name: smallnet, width: 6}
recipe: {epochs: 16, batch_size: 64, crop: 1, flip: false, precision: float32}
clean_budget: {images: 60}
seeds: [1]
attacks: [{name: badnets, target: 3}]
defenses: [none]
"""
FLAGS = ["--net", "smallnet", "--net-settings", "width=6", "--crop", "1", "--no-flip"]
BRIEF = ["expose=false", "searches=1", "images=8", "steps=2", "mask_steps=2", "restore_steps=2"]
PRUNING = ["suppression_steps=3", "recover_steps=3", "steps=30", "agreement=0.6"]
QUICK = [*PRUNING, "restore_steps=20"]
ONCE = [*PRUNING, "rounds=1", "restore_steps=2"]
"""Settings of MNP for repairs of which nothing but their output is looked at."""


def write_tree(folder: Path, images: Images) -> Path:
    for i, (x, y) in enumerate(zip(images.x, images.y.tolist(), strict=True)):
        file = folder / str(y) / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(file)
    return folder


class Own:
    """A user's folder: a checkpoint, clean pictures, and what the user does not know: the trigger."""

    def __init__(self, folder: Path) -> None:
        victim = parse_suite(SUITE, "test", "test").victims[0]
        data = Digits(size=8).load(folder)
        split = stages.split_of(victim, data)
        made = stages.train_victim(victim, data, split, stages.attack_context("own", victim, data, torch.device("cpu")))
        triggered = stages.triggered_test(victim, made.state, split, 10)
        assert triggered is not None
        self.triggered: Triggered = triggered
        self.carriers = Images(to_bytes(triggered.x), triggered.y_true)
        self.test = split.test
        self.victim = made.model
        self.mean, self.std = data.mean, data.std
        self.folder = folder
        self.checkpoint = folder / "suspicious.pt"
        torch.save(made.model.state_dict(), self.checkpoint)
        budget = Images(torch.cat([split.clean.x, split.validation.x]), torch.cat([split.clean.y, split.validation.y]))
        order = torch.argsort(budget.y, stable=True)
        self.data = write_tree(folder / "clean", budget[order])
        self.images = budget[order]
        self.normalise = ",".join(str(v) for v in (*data.mean, *data.std))

    def arguments(self, verb: str, *more: str) -> list[str]:
        known = ["--checkpoint", str(self.checkpoint), "--data", str(self.data), "--normalise", self.normalise]
        return [verb, *known, *FLAGS, *more]

    def net(self, weights: dict[str, torch.Tensor]) -> nn.Module:
        model = SmallNet(width=6).build(10, (3, 8, 8))
        model.load_state_dict(weights)
        return with_normalisation(model, self.mean, self.std).eval()

    def asr(self, model: nn.Module) -> float:
        return float((logits(model, self.triggered.x).argmax(1) == 3).float().mean())


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Own:
    return Own(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def purified(own: Own) -> Path:
    """Output of one repair, with everything asked for."""
    out = own.folder / "out"
    test = write_tree(own.folder / "test", own.test[:60])
    triggered = write_tree(own.folder / "triggered", own.carriers)
    page = ["--html", str(own.folder / "repair.html")]
    asked = ["--out", str(out), "--test", str(test), "--triggered", str(triggered), *page, "--settings", *QUICK]
    assert main(own.arguments("purify", *asked)) == 0
    return out


def report_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def test_the_checkpoint_is_really_backdoored(own: Own) -> None:
    assert accuracy(own.victim, own.test) > 0.9
    assert own.asr(own.victim) > 0.9


def test_both_files_hold_the_repaired_net(own: Own, purified: Path) -> None:
    one = load_file(purified / "repaired.safetensors")
    two = torch.load(purified / "repaired.pt", weights_only=True)
    assert one.keys() == two.keys() == own.victim.state_dict().keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], value) for key, value in own.victim.state_dict().items())


def data_of(page: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_page_of_a_repair_shows_what_the_report_says(own: Own, purified: Path) -> None:
    data, report = data_of(own.folder / "repair.html"), report_of(purified)
    assert (data["kind"], data["title"]) == ("model", "suspicious.pt")
    pruned = sum(layer["pruned"] for layer in report["pruned by layer"])
    assert data["subtitle"].startswith(f"repaired with mnp; {pruned} of ")
    measured = {row["name"]: row for row in data["measured"]}
    assert measured["clean accuracy, test"]["after"] == pytest.approx(100 * report["clean accuracy"]["test"]["after"], abs=0.01)
    assert measured["triggered images sent to 3"]["before"] > 80
    pruned = sum(layer["pruned"] for layer in report["pruned by layer"])
    assert len(data["details"]["pruned"]) == sum(data["layers"].values()) == pruned
    assert sum(map(sum, data["details"]["clean"])) == 60
    assert len(data["details"]["neurons before"][0]) == sum(size for _, size in data["details"]["layers"])


def test_the_page_of_a_verdict(own: Own, tmp_path: Path) -> None:
    found = judged(own, html=tmp_path / "verdict.html", settings=["threshold=-1000"])
    data = data_of(tmp_path / "verdict.html")
    assert data["verdict"].startswith("backdoored: score ")
    assert data["mood"] == "bad"
    assert dict(data["evidence"]).keys() == set(map(str, range(10)))
    assert data["suspected"] == found.facts["suspected"]
    assert data["picture"].startswith("data:image/png;base64,")
    assert judged(own, html=tmp_path / "weak.html", normalise="2,2,2,0.2,0.2,0.2").word == "undecided"
    assert data_of(tmp_path / "weak.html")["verdict"].startswith("undecided. The net is right on ")
    (tmp_path / "taken").touch()
    for asked in ({"html": tmp_path / "taken" / "page.html"}, {"picture": tmp_path / "taken" / "x.png"}):
        with pytest.raises(UserError, match="cannot write to"):  # before any work
            judged(own, **asked, settings=["nonsense=1"])
    for wrong in ("page.pdf", "page"):
        with pytest.raises(UserError, match=r"the page is HTML; call it .*page\.html"):
            judged(own, html=tmp_path / wrong)


@pytest.mark.filterwarnings("ignore:the repair did damage")  # so brief a one does on some processors
def test_the_command_repairs_as_python_does(own: Own, purified: Path) -> None:
    settings = {key: yaml.safe_load(value) for key, value in (word.split("=") for word in QUICK)}
    recipe = Recipe(crop=1, flip=False)
    result = purify(own.net(own.victim.state_dict()), own.images.x, own.images.y, settings=settings, recipe=recipe)
    weights = load_file(purified / "repaired.safetensors")
    assert all(torch.allclose(weights[key], value, atol=1e-5) for key, value in result.model.state_dict().items())
    assert json.loads(json.dumps(dict(result.report))) == report_of(purified)["repair"]
    assert report_of(purified)["verdict"] == result.report["verdict"]


def test_the_report_says_what_was_pruned(own: Own, purified: Path) -> None:
    report = report_of(purified)
    repaired = own.net(load_file(purified / "repaired.safetensors"))
    silent = {
        name: int(((m.weight == 0) & (m.bias == 0)).sum())
        for name, m in repaired.named_modules()
        if isinstance(m, nn.BatchNorm2d)
    }
    assert report["repair"]["layers"] == {name: count for name, count in silent.items() if count}
    assert report["repair"]["pruned"] == sum(silent.values()) > 0
    assert {e["layer"]: e["pruned"] for e in report["pruned by layer"]} == report["repair"]["layers"]
    widths = {name: m.num_features for name, m in repaired.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert all(e["of"] == widths[e["layer"]] for e in report["pruned by layer"])
    assert report["defense"]["name"] == "mnp"
    assert report["defense"]["agreement"] == 0.6
    assert report["classes"] == [str(c) for c in range(10)]


def test_the_report_lists_the_channels(own: Own, purified: Path) -> None:
    repaired = own.net(load_file(purified / "repaired.safetensors"))
    for entry in report_of(purified)["pruned by layer"]:
        layer = repaired.get_submodule(entry["layer"])
        assert isinstance(layer, nn.BatchNorm2d)
        assert entry["channels"] == (layer.weight == 0).nonzero().flatten().tolist()


def test_images_with_the_trigger_are_measured_before_and_after(own: Own, purified: Path) -> None:
    found = report_of(purified)["triggered"]
    repaired = own.net(load_file(purified / "repaired.safetensors"))
    after = logits(repaired, own.carriers.x).argmax(1)
    assert found["target"] == "3"
    assert found["images"] == len(own.carriers) == int((own.carriers.y != 3).sum())
    assert found["sent to target"]["before"] == pytest.approx(own.asr(own.victim), abs=0.02)
    assert found["sent to target"]["after"] == pytest.approx(float((after == 3).float().mean()), abs=1e-3)
    assert found["right"]["after"] == pytest.approx(float((after == own.carriers.y).float().mean()), abs=1e-3)


def test_accuracies_are_those_of_the_parts_named(own: Own, purified: Path) -> None:
    measured = report_of(purified)["clean accuracy"]
    repaired = own.net(load_file(purified / "repaired.safetensors"))
    held = own.images[validation_part(own.images.y, 0.2)]
    for part, images in (("validation", held), ("test", own.test[:60])):
        assert measured[part]["images"] == len(images)
        assert measured[part]["before"] == pytest.approx(accuracy(own.victim, images))
        assert measured[part]["after"] == pytest.approx(accuracy(repaired, images))
    assert measured["validation"]["note"] == "this part was worked on, too", "MNP chooses nothing by it"


def test_a_table_tells_of_every_neuron(own: Own, purified: Path) -> None:
    table = pd.read_csv(purified / "neurons.csv", dtype={"layer": str})
    scales = {k[: -len(".weight")]: v for k, v in own.victim.state_dict().items() if v.dim() == 1 and k.endswith(".weight")}
    layers = {layer: len(rows) for layer, rows in table.groupby("layer")}
    assert layers == {layer: len(scales[layer]) for layer in layers}
    told = {"magnitude", "saliency", "deviation", "growth", "recovered", "mask", "rank", "pruned"}
    assert told <= set(table.columns)
    assert table[sorted(told)].notna().all().all()
    assert table["pruned"].sum() == sum(entry["pruned"] for entry in report_of(purified)["pruned by layer"])


def test_a_second_repair_overwrites_only_when_told(own: Own, purified: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p.name: p.read_bytes() for p in purified.iterdir()}
    assert sorted(before) == ["neurons.csv", "repaired.pt", "repaired.safetensors", "report.json"]
    quick = ["--out", str(purified), "--defense", "ft", "--settings", "epochs=1"]
    assert main(own.arguments("purify", *quick)) == 2
    assert "add --force to overwrite" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in purified.iterdir()} == before


def test_a_net_with_its_normalisation_measured_and_saved_as_safetensors(own: Own, tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in own.victim.state_dict().items()}, tmp_path / "net.safetensors")
    words = ["--checkpoint", str(tmp_path / "net.safetensors"), "--data", str(own.data), "--normalise", "measured", *FLAGS]
    assert main(["purify", *words, "--defense", "none", "--out", str(tmp_path / "out")]) == 0
    weights = load_file(tmp_path / "out" / "repaired.safetensors")
    assert all(torch.equal(weights[key], value) for key, value in own.victim.state_dict().items())
    assert report_of(tmp_path / "out")["clean accuracy"]["validation"]["before"] > 0.8


def test_compact_writes_a_net_that_runs_alone(own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch_pruning", reason="the extra 'compact' is not installed")
    assert main(own.arguments("purify", "--out", str(tmp_path), "--compact", "--settings", *ONCE)) == 0
    assert "compact: " in capsys.readouterr().out
    repaired = own.net(load_file(tmp_path / "repaired.safetensors"))
    small = torch.export.load(tmp_path / "compact.pt2").module()
    with torch.no_grad():
        x = own.test[:30].pixels()
        assert torch.allclose(small(x), repaired(x), atol=1e-4)
    said = report_of(tmp_path)["compact"]
    assert said["parameters"]["after"] < said["parameters"]["before"]
    assert said["parameters"]["before"] == sum(p.numel() for p in repaired.parameters())


def test_detect_prints_a_verdict(own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--settings", "draws=1", "nulls=1", *BRIEF]
    assert main(own.arguments("detect", "--json", *quick)) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["evidence"]) == [str(c) for c in range(10)]
    assert found["score"] == max(found["evidence"].values())
    assert found["evidence"][found["suspected"]] == found["score"]
    assert found["backdoored"] is None
    assert found["calibration"]
    assert found["clean accuracy"] == pytest.approx(accuracy(own.victim, own.images))
    assert found["p-value"] in (0.5, 1.0)
    assert found["picture"] is None
    picture = tmp_path / "found.png"
    assert main(own.arguments("detect", "--picture", str(picture), *quick, "threshold=-1000.0")) == 0
    out = capsys.readouterr().out
    assert out.startswith("BACKDOORED: score")
    assert "calibrated on: threshold given by the user" in out
    assert "p-value by the detector's own null: " in out
    with Image.open(picture) as shown:
        width, height = shown.size
    assert width / 8 == pytest.approx(height / 3, abs=2)  # eight images in three rows
    assert main(own.arguments("detect", "--picture", str(tmp_path / "found.jpg"), *quick)) == 2
    assert "call it " in capsys.readouterr().err


def repaired_with_nothing(own: Own, **more: Any) -> RepairReport:
    how: dict[str, Any] = {"net_settings": ["width=6"], "normalise": own.normalise, "recipe": Recipe(crop=1, flip=False)}
    return repair_checkpoint(own.checkpoint, "smallnet", own.data, **{"defense": "none", **how, **more})


def test_python_repairs_files_and_writes_only_when_told(own: Own, tmp_path: Path) -> None:
    told: list[str] = []
    found = repaired_with_nothing(own, progress=lambda what, done, total: told.append(what))
    assert found.out is None
    assert found.written == ()
    assert found.facts["clean accuracy"]["validation"]["before"] == found.facts["clean accuracy"]["validation"]["after"]
    assert told[1].startswith("clean accuracy ")
    assert told.index("repairing with none") < told.index("measuring the repaired net")
    out = tmp_path / "new" / "out"
    assert repaired_with_nothing(own, out=out).out == out
    assert report_of(out) == json.loads(json.dumps(found.facts))


def test_images_with_the_trigger_in_one_folder(own: Own, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, x in enumerate(own.carriers.x[:20]):
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(flat / f"{i}.png")
    found = repaired_with_nothing(own, triggered=flat).facts["triggered"]
    assert found["target"] == "3"
    assert found["images"] == 20
    assert found["sent to target"]["before"] == found["sent to target"]["after"] > 0.8
    clean = write_tree(tmp_path / "clean", own.images[:6])
    assert "the trigger has no effect" in repaired_with_nothing(own, triggered=clean).facts["triggered"]["note"]


def test_the_net_is_found_from_the_weights(own: Own) -> None:
    found = repair_checkpoint(
        own.checkpoint, "auto", own.data, defense="none", normalise=own.normalise, recipe=Recipe(crop=1, flip=False)
    )
    assert found.facts["net"] == {"name": "smallnet", "settings": ["width=6"]}


def test_a_net_fed_wrongly_is_undecided_at_once_and_not_repaired(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shifted = ["--normalise", "2,2,2,0.2,0.2,0.2"]
    assert main([*own.arguments("detect", "--exit-code"), *shifted]) == 3
    captured = capsys.readouterr()
    assert captured.out.startswith("undecided: the net is right on ")
    assert re.search(r"With --normalise \S+ it is right on (100|[89])", captured.out)
    assert "judging" not in captured.err
    assert main([*own.arguments("purify", "--out", str(tmp_path / "out")), *shifted]) == 2
    assert "Nothing was repaired; --anyway goes on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*own.arguments("purify", "--out", str(tmp_path / "out"), "--defense", "none", "--anyway"), *shifted]) == 0
    assert "warning: the net is right on " in capsys.readouterr().out


def judged(own: Own, **more: Any) -> DetectReport:
    settings = ["draws=2", "nulls=0", *BRIEF, *more.pop("settings", ())]
    how: dict[str, Any] = {"net_settings": ["width=6"], "normalise": own.normalise, "recipe": Recipe(crop=1, flip=False)}
    return detect_checkpoint(own.checkpoint, "smallnet", own.data, settings=settings, **{**how, **more})


def test_the_verdict_says_what_it_rests_on(own: Own) -> None:
    found = judged(own)
    assert found.word == found.facts["verdict"] == "uncalibrated"
    low, high = found.facts["spread"]
    scores = found.facts["report"]["scores"]
    assert len(scores) == 2
    assert (low, high) == (min(scores), max(scores))
    assert low < high
    between = judged(own, settings=[f"threshold={(low + high) / 2}"])
    assert "both sides of the threshold" in between.reason
    assert between.word in ("backdoored", "no backdoor found")
    assert judged(own, settings=["threshold=1000"]).word == "no backdoor found"
    assert judged(own, settings=["threshold=-1000"]).reason == "all draws agree"


def test_exit_codes_of_detect(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--exit-code", "--quiet", "--settings", "draws=1", "nulls=1", *BRIEF]
    assert main(own.arguments("detect", *quick, "threshold=-1000.0")) == 1
    assert main(own.arguments("detect", *quick, "threshold=1000.0")) == 0
    assert not capsys.readouterr().err
    assert main(own.arguments("detect", *quick)) == 3
    assert capsys.readouterr().out.startswith("uncalibrated: score")


CURE = ["--settings", "draws=1", "nulls=0", "images=8", "steps=4", "mask_steps=2", "restore_steps=2"]


def test_detect_goes_on_to_repair_where_the_verdict_is_yes(own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    repair = ["--repair", "--out", str(out), "--defense-settings"]
    assert main(own.arguments("detect", *repair, *QUICK, "--json", "--exit-code", *CURE, "threshold=-1000.0")) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["verdict"] == "backdoored"
    assert facts["repaired"] == report_of(out)
    tried = report_of(out)["perturbation"]
    assert tried["class"] == facts["suspected"]
    others = own.images[own.images.y != int(facts["suspected"])]
    assert tried["images"] == len(others)
    assert 0 <= tried["sent there"]["before"] <= 1
    assert own.asr(own.net(load_file(out / "repaired.safetensors"))) < own.asr(own.victim)
    again = own.arguments("detect", *repair, *ONCE, *CURE, "threshold=-1000.0")
    assert main(again) == 2  # before anything is judged
    captured = capsys.readouterr()
    assert "--force" in captured.err
    assert not captured.out
    assert main([*again, "--force"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("BACKDOORED")
    assert re.search(r"the detector's perturbation: [\d.]+ -> [\d.]+ % of \d+ clean images go to '\d'", said)


def test_detect_repairs_nothing_without_a_yes(own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = own.arguments("detect", "--repair", "--out", str(out), *CURE)
    assert main(command) == 0
    assert "nothing was repaired: there is no decision; set 'threshold'" in capsys.readouterr().out
    assert main([*command, "threshold=1000.0"]) == 0
    assert "nothing was repaired: no backdoor was found" in capsys.readouterr().out
    assert not out.exists()
    assert main([*command, "--defense", "abl"]) == 2
    assert "training set" in capsys.readouterr().err


@dataclass(frozen=True, kw_only=True)
class Finder(Defense):
    """Gives the net back as it is, and a perturbation."""

    name = "finder"
    channels: int = param(3, "of the perturbation", low=1)

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        return Purified(model=view.model, perturbation=torch.full((1, self.channels, 8, 8), 0.5))


def test_a_perturbation_that_the_defense_found_is_on_the_page(own: Own, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    repaired_with_nothing(own, html=page)
    assert data_of(page)["picture"] is None
    repaired_with_nothing(own, defense=Finder(), html=page)
    first = data_of(page)["picture"]
    assert first.startswith("data:image/png;base64,")
    repaired_with_nothing(own, defense=Finder(), html=page, verdict=Verdict(score=1.0, perturbation=torch.zeros(1, 3, 8, 8)))
    assert data_of(page)["picture"] != first, "that of a detector before it"
    with pytest.raises(MethodError, match="a perturbation of another shape than one image"):
        repaired_with_nothing(own, defense=Finder(channels=1))


def test_a_perturbation_of_a_verdict_is_tried_on_the_repaired_net(own: Own) -> None:
    delta = torch.zeros(1, 3, 8, 8)
    found = repaired_with_nothing(own, verdict=Verdict(score=1.0, suspected=3, perturbation=delta)).facts["perturbation"]
    others = own.images[own.images.y != 3]
    share = float((logits(own.victim, others.x).argmax(1) == 3).float().mean())
    assert found["sent there"]["before"] == found["sent there"]["after"] == pytest.approx(share, abs=1e-4)
    assert "perturbation" not in repaired_with_nothing(own, verdict=Verdict(score=1.0)).facts


def test_screen_scores_the_images_of_a_folder(own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    clean = own.test[:30]
    for name, part in (("clean", clean.x), ("bad", own.carriers.x[:30])):
        for i, x in enumerate(part):
            Image.fromarray(x.permute(1, 2, 0).numpy()).save(folder / f"{name}{i}.png")
    table = tmp_path / "scores.csv"
    asked = ["--images", str(folder), "--settings", "overlays=10"]
    assert main(own.arguments("screen", *asked, "--out", str(table))) == 0
    captured = capsys.readouterr()
    assert re.match(r"\d+ of 60 images are flagged by strip\n", captured.out)
    assert "... screening with strip" in captured.err
    rows = pd.read_csv(table)
    assert list(rows["score"]) == sorted(rows["score"], reverse=True)
    scores = {kind: rows[rows["file"].str.startswith(kind)]["score"].tolist() for kind in ("clean", "bad")}
    assert auroc(scores["clean"], scores["bad"]) > 0.7
    assert main(own.arguments("screen", *asked, "--json")) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in facts["images"]] == list(rows["file"])
    assert facts["flagged"] == rows["flagged"].sum()
    assert main(own.arguments("screen", *asked[:2], "--detector", "spectral-signatures")) == 2
    assert "give its images as <label>/<image>" in capsys.readouterr().err
    labelled = write_tree(tmp_path / "train", own.images)
    found = screen_checkpoint(
        own.checkpoint, "smallnet", own.data, labelled, detector="scan", net_settings=["width=6"], normalise=own.normalise,
        recipe=Recipe(crop=1, flip=False),
    )  # fmt: skip
    assert len(found.files) == len(found.screened.scores) == len(own.images)


@pytest.mark.filterwarnings("default")
def test_images_made_strange_are_warned_of_in_one_line(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--crop", "4", "--quiet"]
    said = r"warning: moved by up to 4 pixels, as the recipe augments them, the clean images are recognised at .* \(--crop 0\)\n"
    assert main(own.arguments("purify", *flags, "--defense", "none", "--out", str(own.folder / "strange"))) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert len(re.findall(said, captured.out)) == 1
    assert main(own.arguments("detect", *flags, "--detector", "clp")) == 0
    assert re.fullmatch(f"mnp-bench: {said}", capsys.readouterr().err)


def test_purify_prints_json_and_nothing_else(own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(own.arguments("purify", "--out", str(tmp_path / "out"), "--json", "--defense", "none")) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == report_of(tmp_path / "out")
    assert "... repairing with none" in captured.err


def test_a_full_disk_loses_no_repair(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that was asked for takes nothing any more, once the repair is done."""
    real = os.fsync
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(other))

    def full(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().is_relative_to(out):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert main(own.arguments("purify", "--out", str(out), "--defense", "none")) == 1
    captured = capsys.readouterr()
    (place,) = other.iterdir()
    assert f"{out} could not be written to; all is in {place}" in captured.err
    assert sorted(p.name for p in place.iterdir()) == ["neurons.csv", "repaired.pt", "repaired.safetensors", "report.json"]
    monkeypatch.setattr(os, "fsync", lambda handle: full_everywhere())
    assert main(own.arguments("purify", "--out", str(out), "--defense", "none")) == 2
    assert "could be written neither to" in capsys.readouterr().err


def full_everywhere() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_too_little_room_is_said_before_the_work(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    assert main(own.arguments("purify", "--out", str(tmp_path / "out"))) == 2
    assert "make room, or choose another folder" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------- errors


def no_checkpoint(own: Own, folder: Path) -> list[str]:
    return ["--checkpoint", str(folder / "none.pt")]


def of_another_net(own: Own, folder: Path) -> list[str]:
    return ["--net-settings", "width=7"]


def unknown_net(own: Own, folder: Path) -> list[str]:
    return ["--net", "smalnet"]


def unknown_setting(own: Own, folder: Path) -> list[str]:
    return ["--net-settings", "wide=6"]


def no_setting(own: Own, folder: Path) -> list[str]:
    return ["--net-settings", "width"]


def no_folder(own: Own, folder: Path) -> list[str]:
    return ["--data", str(folder / "none")]


def fewer_classes(own: Own, folder: Path) -> list[str]:
    return ["--data", str(write_tree(folder / "few", own.images[own.images.y < 8]))]


def broken_picture(own: Own, folder: Path) -> list[str]:
    write_tree(folder / "broken", own.images)
    next((folder / "broken" / "4").iterdir()).write_bytes(b"no picture")
    return ["--data", str(folder / "broken")]


def odd_normalisation(own: Own, folder: Path) -> list[str]:
    return ["--normalise", "0.5,0.5,0.5,0.2,0.2,0"]


def small_size(own: Own, folder: Path) -> list[str]:
    return ["--size", "4"]


def large_crop(own: Own, folder: Path) -> list[str]:
    return ["--crop", "8"]


def odd_validation(own: Own, folder: Path) -> list[str]:
    return ["--validation", "1"]


def odd_seed(own: Own, folder: Path) -> list[str]:
    return ["--seed", "-1"]


def odd_device(own: Own, folder: Path) -> list[str]:
    return ["--device", "tpu9"]


Case = Callable[[Own, Path], list[str]]
CASES: list[tuple[Case, str]] = [
    (no_checkpoint, "none.pt"),
    (of_another_net, "not of the net 'smallnet'; they fit --net smallnet --net-settings width=6"),
    (unknown_net, "no net is called 'smalnet'. Did you mean 'smallnet'?"),
    (unknown_setting, "unknown key 'wide'. Did you mean 'width'?"),
    (no_setting, "'width' is no setting; write key=value"),
    (no_folder, "no folder"),
    (fewer_classes, "tells 10 classes apart, but"),
    (broken_picture, "1 of 60 images do not decode"),
    (odd_normalisation, "--normalise '0.5,0.5,0.5,0.2,0.2,0' is not known"),
    (small_size, "--size must be 8 to 1024"),
    (large_crop, "--crop 8 must be smaller than the images"),
    (odd_validation, "--validation must be a share between 0 and 1"),
    (odd_seed, "--seed must be a whole number"),
    (odd_device, "no device 'tpu9'"),
]


@pytest.mark.parametrize("verb", ["purify", "detect"])
@pytest.mark.parametrize(("case", "message"), CASES, ids=[case.__name__ for case, _ in CASES])
def test_a_mistake_is_one_message_and_writes_nothing(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, case: Case, message: str
) -> None:
    out = tmp_path / "out"
    words = ["--out", str(out)] if verb == "purify" else []
    assert main(own.arguments(verb, *words, *case(own, tmp_path))) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "\nmnp-bench: " in f"\n{captured.err}"
    assert not captured.out
    assert not out.exists()


def test_another_number_of_classes_is_said_without_building_every_net(
    own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took seven seconds to find that none fits."""
    monkeypatch.setattr("mnp_plugin.api.nets._candidates", None)
    assert main(own.arguments("purify", "--out", str(tmp_path / "out"), *fewer_classes(own, tmp_path))) == 2


def test_mistakes_of_the_method_and_of_the_output(own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    write_tree(tmp_path / "other", own.test[:5])
    (tmp_path / "other" / "eleven").mkdir()
    for words, message in (
        (["--defense", "mmp"], "no defense is called 'mmp'. Did you mean 'mnp'?"),
        (["--settings", "agreement=0"], "agreement must be > 0"),
        (["--settings", "agreement=much"], "must be float"),
        (["--out", str(tmp_path / "file" / "out")], "cannot write to"),
        (["--test", str(tmp_path / "other")], "does not hold the same class folders"),
        (["--test", str(tmp_path / "none")], "no folder"),
        (["--triggered", str(tmp_path / "none")], "no folder"),
        (["--triggered", str(tmp_path / "other")], "holds the folder 'eleven', which is no class of --data"),
        (["--triggered", str(tmp_path)], "holds files beside folders"),
        (["--triggered", str(tmp_path / "other" / "eleven")], "is empty"),
    ):
        assert main(own.arguments("purify", "--out", str(tmp_path / "out"), *words)) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_said_before_the_work(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    assert main(own.arguments("purify", "--out", str(tmp_path / "out"), "--compact")) == 2
    captured = capsys.readouterr()
    assert "pip install 'mnp_plugin[compact]'" in captured.err
    assert not captured.out


def test_the_size_of_pictures_that_are_not_square_is_asked_for(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (9, 12)).save(tmp_path / name / f"{i}.png")
    with pytest.raises(UserError, match="9x12 pixels; give the side"):
        repair_checkpoint(tmp_path / "x.pt", "smallnet", tmp_path)


def flat_net(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's class that takes images of 16 pixels and knows two classes, and a checkpoint of it."""
    code = """
    from torch import nn
    class Flat(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(768, 2))
    """
    (folder / "flat_net_16.py").write_text(textwrap.dedent(code))
    monkeypatch.chdir(folder)
    torch.save({"1.weight": torch.zeros(2, 768), "1.bias": torch.zeros(2)}, folder / "flat.pt")


def pictures(folder: Path, classes: str, side: int) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (side, side)).save(folder / name / f"{i}.png")
    return folder


def test_pictures_of_another_size_than_the_net_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flat_net(tmp_path, monkeypatch)
    data = pictures(tmp_path / "data", "ab", 32)
    words = ["--checkpoint", "flat.pt", "--net", "flat_net_16:Flat", "--data", str(data), "--quiet"]
    for verb in ("purify", "detect"):
        assert main([verb, *words]) == 2
        assert "images of shape [3, 32, 32] do not fit the model" in (said := capsys.readouterr().err)
        assert "see --size" in said


def test_auxiliary_heads_are_refused_before_any_work(
    own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torchvision's GoogLeNet and Inception have them: a class of the user's own, and weights for a net without."""
    code = """
    from torch import nn
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.aux1, self.aux_logits = nn.Linear(768, 2), nn.Linear(768, 2), True
        def forward(self, x):
            x = x.flatten(1)
            return (self.last(x), self.aux1(x)) if self.training and self.aux_logits else self.last(x)
    """
    (tmp_path / "two_heads.py").write_text(textwrap.dedent(code))
    monkeypatch.chdir(tmp_path)
    weights = {f"{head}.{name}": torch.zeros(2, *more) for head in ("last", "aux1") for name, more in
               (("weight", (768,)), ("bias", ()))}  # fmt: skip
    torch.save(weights, "heads.pt")
    torch.save({**own.victim.state_dict(), **weights}, "more.pt")
    data = pictures(tmp_path / "data", "ab", 16)
    for verb in ("purify", "detect"):
        assert main([verb, "--checkpoint", "heads.pt", "--net", "two_heads:Heads", "--data", str(data), "--quiet"]) == 2
        said = capsys.readouterr().err
        assert "in train mode it gives a tuple, not logits [N, K]; drop its auxiliary heads" in said
        assert "model.aux1 = None and model.aux_logits = False" in said
        assert main(own.arguments(verb, "--checkpoint", "more.pt")) == 2
        assert "more.pt holds auxiliary heads (aux1), which only training needed" in capsys.readouterr().err


def test_a_name_without_a_colon_and_a_normalisation_of_bytes_are_explained(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*own.arguments("detect"), "--net", "mypkg.mod.Class"]) == 2
    assert "write package.module:Class, with a colon" in capsys.readouterr().err
    assert main([*own.arguments("detect"), "--normalise", "125,125,125,60,60,60"]) == 2
    assert "divide mean and std by 255" in capsys.readouterr().err


def test_the_verdict_is_not_kinder_than_the_users_own_trigger(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    triggered = write_tree(tmp_path / "triggered", own.carriers)
    words = ["--out", str(tmp_path / "out"), "--triggered", str(triggered), "--settings", "restore=false", "agreement=1"]
    assert main(own.arguments("purify", *words, "steps=1", "suppression_steps=1", "recover_steps=0", "--quiet")) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["triggered"]["sent to target"]["after"] > 0.5
    assert "verdict: the backdoor is still there: " in capsys.readouterr().out

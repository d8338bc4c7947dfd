"""What the runner makes for attacks once and keeps: the clean twin, learned assets, pictures, indices, stealth numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file

from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import Suite
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.report.build import build_tables
from mnp_plugin.report.records import Record

TEXT = """
suite: made
dataset: {name: digits, size: 16}
net: {name: smallnet, width: 2}
recipe: {epochs: 1, batch_size: 128, lr: 0.1, crop: 0, flip: false, precision: float32}
clean_budget: {images: 900}
defenses: [none]
attacks:
  - {name: lc, target: 2, steps: 2, source_steps: 1}
  - {name: trojannn, steps: 5}
  - {name: input_aware, width: 2, mask_epochs: 1, poison_ratio: 0.2}
  - {name: lira, poison_ratio: 0.5}
  - {name: adaptive_blend, poison_ratio: 0.02, cover: 0.01}
  - {name: badnets, label: badnets-two, target: [1, 3], poison_ratio: 0.05}
"""
LABELS = ("lc", "trojannn", "input_aware", "lira", "adaptive_blend", "badnets-two")


class Watch:
    """Notes what was trained or made."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def plan(self, total: int, done: int, further: int = 0, further_done: int = 0) -> None:
        """Nothing."""

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        if (step, steps) == (0, 0) or what.endswith("training"):
            self.seen.append(what)

    def finished(self, record: Record) -> None:
        """Nothing."""

    def measured(self, title: str, reason: str) -> None:
        assert not reason, title


@pytest.fixture(scope="module")
def suite() -> Suite:
    return parse_suite(TEXT, "made.yaml", "made")


def run(suite: Suite, store: Store) -> Watch:
    watch = Watch()
    summary = Runner(suite, store, torch.device("cpu"), watch).run()
    assert [f"{record.attack}: {record.reason}" for record in summary.failed] == []
    return watch


@pytest.fixture(scope="module")
def first(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Watch]:
    folder = tmp_path_factory.mktemp("made")
    store = Store(folder / "cache", folder / "results")
    return store, run(suite, store)


def records(suite: Suite, store: Store) -> dict[str, Record]:
    found = {}
    for cell in suite.cells():
        record = store.load_record(suite.name, cell)
        assert record is not None
        found[record.attack] = record
    return found


def victim_file(suite: Suite, store: Store, label: str) -> Path:
    (spec,) = (v for v in suite.victims if v.attack.label == label)
    return store.cache / "victims" / f"{spec.fingerprint}.safetensors"


def test_the_clean_twin_and_each_asset_are_made_once(suite: Suite, first: tuple[Store, Watch]) -> None:
    store, watch = first
    twins = {what for what in watch.seen if " clean seed" in what}
    assert twins == {"digits/smallnet clean seed 0: training"}
    assert len(list((store.cache / "assets").glob("*.safetensors"))) == 2, "a robust net and a mask net"
    assert len(list((store.cache / "victims").glob("*.safetensors"))) == len(LABELS) + 1
    made = [what for what in watch.seen if what.endswith((": robust net", ": input-aware mask net"))]
    assert len(made) == len(set(made)) == 2


@pytest.mark.thorough
def test_numbers_are_the_same_whatever_is_in_the_cache(suite: Suite, first: tuple[Store, Watch], tmp_path: Path) -> None:
    """The victim is trained again beside a warm twin, a warm asset, and a damaged one: the weights never differ."""
    store, _ = first
    learned = {label: load_file(victim_file(suite, store, label)) for label in ("trojannn", "input_aware")}
    before = records(suite, store)
    assets = sorted((store.cache / "assets").iterdir())
    whole = [path.read_bytes() for path in assets]
    again = Store(store.cache, tmp_path / "results")  # no record: every cell runs again
    for label in learned:
        victim_file(suite, store, label).unlink()
    watch = run(suite, again)
    assert not [what for what in watch.seen if " clean seed" in what], "the twin was in the cache"
    compare(suite, again, learned, before)

    for path in assets:
        path.write_bytes(b"\x10" + bytes(40))
    for label in learned:
        victim_file(suite, store, label).unlink()
    (mask,) = (path for path, content in zip(assets, whole, strict=True) if b"mask." in content)
    run(suite, Store(store.cache, tmp_path / "more"))
    compare(suite, Store(store.cache, tmp_path / "more"), learned, before)
    made, kept = load_file(mask), load(whole[assets.index(mask)])
    assert made.keys() == kept.keys()
    assert all(torch.equal(value, kept[key]) for key, value in made.items()), "a damaged asset is made again"


def compare(suite: Suite, store: Store, learned: dict[str, dict[str, torch.Tensor]], before: dict[str, Record]) -> None:
    for label, tensors in learned.items():
        now = load_file(victim_file(suite, store, label))
        assert now.keys() == tensors.keys()
        assert all(torch.equal(now[key], value) for key, value in tensors.items()), label
    for label, record in records(suite, store).items():
        assert record.before == before[label].before
        assert record.asr_8bit == before[label].asr_8bit
        assert record.stealth == before[label].stealth


def test_a_picture_grid_lies_beside_every_victim(suite: Suite, first: tuple[Store, Watch]) -> None:
    store, _ = first
    for label in LABELS:
        with Image.open(victim_file(suite, store, label).with_suffix(".png")) as picture:
            assert picture.format == "PNG"
            grid = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert grid.shape == (3, 3 * 17 + 1, 8 * 17 + 1)
        clean, triggered, difference = (grid[:, 1 + 17 * row : 17 * (row + 1)].int() for row in range(3))
        assert int(difference.max()) > 0
        if label in ("trojannn", "badnets-two"):  # those of others change some pixels by less than a grey level
            assert torch.equal(difference > 0, triggered != clean)


def test_altered_images_are_saved_with_the_victim(suite: Suite, first: tuple[Store, Watch]) -> None:
    store, _ = first
    count = 1438 - 900
    kept = {label: load_file(victim_file(suite, store, label)) for label in LABELS}
    poisoned = {label: tensors["state.poisoned_indices"].tolist() for label, tensors in kept.items()}
    cover = {label: tensors["state.cover_indices"].tolist() for label, tensors in kept.items()}
    assert len(poisoned["trojannn"]) == round(0.1 * count)
    assert len(poisoned["badnets-two"]) == round(0.05 * count)
    assert len(poisoned["adaptive_blend"]) == round(0.02 * count)
    assert len(cover["adaptive_blend"]) == round(0.01 * count)
    assert not set(poisoned["adaptive_blend"]) & set(cover["adaptive_blend"])
    assert poisoned["input_aware"] == poisoned["lira"] == [], "they alter batches"
    assert all(0 <= i < count for indices in poisoned.values() for i in indices)
    assert all(len(set(indices)) == len(indices) for indices in (*poisoned.values(), *cover.values()))
    assert {key.split(".")[1] for key in kept["lira"] if key.startswith("state.")} == {
        "generator", "poisoned_indices", "cover_indices",
    }  # fmt: skip


def test_records_tell_stealth_8_bit_asr_and_targets(suite: Suite, first: tuple[Store, Watch]) -> None:
    store, _ = first
    found = records(suite, store)
    for label, record in found.items():
        assert record.stealth is not None
        assert record.stealth.keys() == {"psnr", "ssim", "linf"}
        assert record.stealth["linf"] is not None
        assert 0 < record.stealth["linf"] <= 1
        assert record.asr_8bit is not None
        assert 0 <= record.asr_8bit <= 1, label
        assert label != "lira" or record.stealth["linf"] <= 0.0025
    assert found["badnets-two"].spec["attack"]["target"] == [1, 3]
    tables = build_tables(store.suite_folder(suite.name))
    assert "badnets-two" in tables.md.read_text()
    assert json.loads((store.suite_folder("made") / "suite.json").read_text())["suite"] == "made"

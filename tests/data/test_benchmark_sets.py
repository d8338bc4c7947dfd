"""CIFAR-100, GTSRB, Tiny ImageNet and Imagenette from small samples, laid out as their archives unpack."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.params import to_plain
from mnp_plugin.data.tinyimagenet import TinyImageNet
from mnp_plugin.data.torchvision_sets import Cifar10, Cifar100, Gtsrb

WNIDS = ("n01440764", "n02102040", "n02979186")


def picture(place: Path, colour: tuple[int, int, int], side: int = 24) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), colour, dtype=np.uint8)).save(place)


def test_cifar100_has_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, first in (("train", 7), ("test", 99)):
        rows = np.repeat(np.array([[10, 20, 30]], dtype=np.uint8), 1024, axis=1).repeat(2, axis=0)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "fine_labels": [first, 3], "coarse_labels": [1, 2]}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class{i}" for i in range(100)]}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = Cifar100(root=str(tmp_path)).load(tmp_path / "cache")
    assert data.shape == (3, 32, 32)
    assert data.train.y.tolist() == [7, 3]
    assert data.test.y.tolist() == [99, 3]
    assert data.train.x[0, :, 0, 0].tolist() == [10, 20, 30]
    assert len(data.classes) == 100
    assert data.mean == (0.5071, 0.4865, 0.4409)


def gtsrb(root: Path, csv: str) -> Path:
    for label in range(3):
        for number in range(2):
            picture(
                root / "gtsrb" / "GTSRB" / "Training" / f"{label:05d}" / f"00000_{number:05d}.ppm", (80 * label, 0, 0), 20 + label
            )
        (root / "gtsrb" / "GTSRB" / "Training" / f"{label:05d}" / f"GT-{label:05d}.csv").write_text("Filename;Width")
    for number in range(2):
        picture(root / "gtsrb" / "GTSRB" / "Final_Test" / "Images" / f"{number:05d}.ppm", (0, 80 * number, 0))
    (root / "gtsrb" / "GT-final_test.csv").write_text(csv)
    return root


def test_gtsrb_takes_training_labels_from_folders_and_test_labels_from_the_table(tmp_path: Path) -> None:
    table = "Filename;Width;Height;ClassId\n00001.ppm;24;24;2\n00000.ppm;24;24;0\n"
    root = gtsrb(tmp_path / "data", table)
    data = Gtsrb(root=str(root), size=16).load(tmp_path / "cache")
    assert data.shape == (3, 16, 16)
    assert data.train.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.train.x[:, 0, 0, 0].tolist() == [0, 0, 80, 80, 160, 160]
    assert data.test.y.tolist() == [2, 0]
    assert data.test.x[:, 1, 0, 0].tolist() == [80, 0]
    (root / "gtsrb" / "GT-final_test.csv").write_text(table.replace(";2\n", ";1\n"))
    assert Gtsrb(root=str(root), size=16).load(tmp_path / "cache").test.y.tolist() == [1, 0], "labels came from the cache"


def test_where_checksummed_images_lie_is_no_part_of_what_they_are() -> None:
    here, there = Cifar10(), Cifar10(root="~/data", download=False)
    assert to_plain(here) == to_plain(there) == {"name": "cifar10", "version": 1, "root": "", "download": True}


def test_gtsrb_is_told_by_its_images_and_its_table(tmp_path: Path) -> None:
    own = Gtsrb(root=str(gtsrb(tmp_path, "Filename;ClassId\n00001.ppm;2\n")))
    before = own.content(tmp_path / "cache")
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("Filename;ClassId\n00001.ppm;1\n")
    assert own.content(tmp_path / "cache") not in ("", before)


def test_gtsrb_with_a_table_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Filename and a ClassId"):
        Gtsrb(root=str(gtsrb(tmp_path, "Name,Class\n1,2\n")), download=False).load(tmp_path / "cache")


@pytest.mark.parametrize(("dataset", "name"), [(Cifar100, "CIFAR-100"), (Gtsrb, "GTSRB")])
def test_missing_and_not_to_be_downloaded(tmp_path: Path, dataset: type, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is not in"):
        dataset(root=str(tmp_path), download=False).load(tmp_path / "cache")


def tiny(root: Path) -> Path:
    for label, wnid in enumerate(WNIDS):
        for number in range(2):
            picture(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", (80 * label, 0, 0), 64)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    for number in range(2):
        picture(root / "val" / "images" / f"val_{number}.JPEG", (0, 0, 80 * number), 64)
    (root / "val" / "val_annotations.txt").write_text(
        f"val_1.JPEG\t{WNIDS[2]}\t0\t0\t62\t62\nval_0.JPEG\t{WNIDS[0]}\t0\t0\t62\t62\n"
    )
    (root / "test" / "images").mkdir(parents=True)
    return root


def test_tiny_imagenet_reads_its_validation_labels(tmp_path: Path) -> None:
    root = tiny(tmp_path / "tiny-imagenet-200")
    data = TinyImageNet(root=str(root)).load(tmp_path / "cache")
    assert data.shape == (3, 64, 64)
    assert data.classes == WNIDS
    assert data.train.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.y.tolist() == [2, 0]
    assert int(data.test.x[0, 2].float().mean()) > int(data.test.x[1, 2].float().mean())
    assert data.std == (0.2302, 0.2265, 0.2262)
    before = TinyImageNet(root=str(root)).content(tmp_path / "cache")
    picture(root / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_2.JPEG", (0, 9, 0), 64)
    assert TinyImageNet(root=str(root)).content(tmp_path / "cache") not in ("", before), "a tree that is unpacked further"
    said = root / "val" / "val_annotations.txt"
    said.write_text("val_1.JPEG\tn00000000\t0\t0\t62\t62\n")
    with pytest.raises(UserError, match=r"line 1: 'n00000000' is none of the classes"):
        TinyImageNet(root=str(root)).load(tmp_path / "cache")
    said.unlink()
    with pytest.raises(UserError, match="names the class of every test image"):
        TinyImageNet(root=str(root)).load(tmp_path / "cache")


def test_a_suite_on_photographs_laid_out_as_imagenette(tmp_path: Path) -> None:
    """Crops of two photographs, as JPEG files of several sizes, from the tree to the table."""
    stream = np.random.default_rng(0)
    for wnid, photograph in zip(WNIDS[:2], load_sample_images().images, strict=True):
        for split, count in (("train", 40), ("val", 12)):
            folder = tmp_path / "data" / "imagenette2-160" / split / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                side = int(stream.integers(90, 160))
                top, left = (int(stream.integers(0, n - side)) for n in photograph.shape[:2])
                crop = photograph[top : top + side, left : left + side - 10]
                Image.fromarray(crop).save(folder / f"{wnid}_{number}.JPEG", quality=85)
    suite = f"""
suite: photographs
dataset: {{name: imagenette, root: {tmp_path / "data"}, size: 32, download: false}}
net: {{name: smallnet, width: 4}}
recipe: {{epochs: 12, batch_size: 16, precision: float32}}
clean_budget: {{images: 16}}
gate: {{asr: 0.0}}
attacks: [{{name: color_shift, shift: [0.5, -0.4, 0.5], poison_ratio: 0.3}}]
defenses: [none, {{name: ft, epochs: 1}}]
"""
    runner = Runner(parse_suite(suite, "x", "x"), Store(tmp_path / "cache", tmp_path / "results"), torch.device("cpu"))
    summary = runner.run()
    assert (summary.ran, summary.failed) == (2, [])
    before = runner.victim(runner.cells[0].victim).before
    assert before.acc > 0.7  # the two photographs are easily told apart
    assert before.asr is not None
    assert before.asr > 0.7

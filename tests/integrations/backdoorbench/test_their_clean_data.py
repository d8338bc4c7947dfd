"""BackdoorBench's clean data in the layouts its code reads: order, labels and pixels, and what is said of broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from mnp_plugin.core.errors import UserError
from mnp_plugin.integrations.backdoorbench.clean_data import load_clean


def picture(file: Path, grey: int, size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (grey, grey, grey)).save(file)


def tiny(folder: Path, classes: int = 200) -> Path:
    """Two training pictures and one of the validation part of each class; the grey says which."""
    root = folder / "tiny-imagenet-200"
    for label in range(classes):
        for i in range(2):
            picture(root / "train" / f"n{label:03d}" / "images" / f"n{label:03d}_{i}.png", label + 20 * i, 64)
        picture(root / "val" / f"n{label:03d}" / f"val_{label}.png", label, 64)
    return folder


def gtsrb(folder: Path) -> Path:
    head = "Filename;Width;Height;X1;Y1;X2;Y2;ClassId"
    for label in (3, 1):
        rows = [f"{i}.png;40;40;0;0;40;40;{label}" for i in range(2)]
        for i in range(2):
            picture(folder / "Train" / f"{label:05d}" / f"{i}.png", 10 * label + i, 40)
        (folder / "Train" / f"{label:05d}" / f"GT-{label:05d}.csv").write_text("\n".join([head, *rows]))
    picture(folder / "Test" / "0.png", 7, 50)
    (folder / "Test" / "GT-final_test.csv").write_text(f"{head}\n0.png;50;50;0;0;50;50;9")
    return folder


def test_tiny_imagenet(tmp_path: Path) -> None:
    data = load_clean("tiny", tiny(tmp_path))
    assert data.shape == (3, 64, 64)
    assert data.classes[:2] == ("n000", "n001")
    assert data.train.y.tolist() == [label for label in range(200) for _ in range(2)]
    assert data.test.y.tolist() == list(range(200))
    assert torch.equal(data.train.x[:, 0, 0, 0].long(), data.train.y + torch.tensor([0, 20] * 200))
    assert torch.equal(data.test.x[:, 2, 63, 63].long(), data.test.y)


def test_gtsrb(tmp_path: Path) -> None:
    data = load_clean("gtsrb", gtsrb(tmp_path))
    assert data.shape == (3, 32, 32)
    assert len(data.classes) == 43
    assert data.train.y.tolist() == [1, 1, 3, 3]
    assert data.train.x[:, 0, 0, 0].tolist() == [10, 11, 30, 31]
    assert (data.test.y.tolist(), data.test.x[:, 0, 0, 0].tolist()) == ([9], [7])


def test_what_is_said_of_data_that_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere, where the record's clean data"):
        load_clean("tiny", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"Tiny ImageNet is not whole in .*train"):
        load_clean("tiny", tmp_path)
    with pytest.raises(UserError, match=r"has 3 classes, not 200; .* sorts 'val' into classes"):
        load_clean("tiny", tiny(tmp_path / "few", classes=3))
    with pytest.raises(UserError, match="holds no GT-"):
        load_clean("gtsrb", tmp_path)
    broken = tiny(tmp_path / "broken")
    (broken / "tiny-imagenet-200/val/n007/val_7.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1 of 200 images do not decode[^/]*/.*val_7\.png"):
        load_clean("tiny", broken)
    torn = gtsrb(tmp_path / "torn")
    whole = (torn / "Test" / "0.png").read_bytes()
    (torn / "Test" / "0.png").write_bytes(whole[:30] + bytes(len(whole) - 30))
    with pytest.raises(UserError, match=r"GT-final_test.csv: GTSRB is not whole"):
        load_clean("gtsrb", torn)
    (torn / "Test" / "0.png").unlink()
    with pytest.raises(UserError, match=r"GT-final_test.csv: GTSRB is not whole"):
        load_clean("gtsrb", torn)

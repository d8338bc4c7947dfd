"""Augmentation, loaders, splits and channel statistics."""

from __future__ import annotations

import os
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save as save_safetensors
from torch import Tensor

from mnp_plugin.contracts import ImageData, Images
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.augment import random_crop_flip
from mnp_plugin.data.digits import Digits
from mnp_plugin.data.folder import ImageFolder
from mnp_plugin.data.split import CleanBudget, Split, make_split, validation_part
from mnp_plugin.data.statistics import channel_statistics
from mnp_plugin.data.torchvision_sets import Cifar10, ImagenetteSet

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

# ---------------------------------------------------------------------------------------------------------------- augment


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distinct(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Images without two equal pixels, so that a crop fits in one way only."""
    c, h, w = shape
    return torch.randperm(count * c * h * w, generator=stream(9)).float().reshape(count, c, h, w)


def found_as(out: np.ndarray, image: np.ndarray, crop: int) -> tuple[int, int, bool] | None:
    """(row shift, column shift, mirrored) under which ``out`` is a crop of the reflect-padded ``image``; None if none."""
    h, w = image.shape[1:]
    padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
    for top in range(2 * crop + 1):
        for left in range(2 * crop + 1):
            part = padded[:, top : top + h, left : left + w]
            for mirrored in (False, True):
                if np.array_equal(out, part[:, :, ::-1] if mirrored else part):
                    return top - crop, left - crop, mirrored
    return None


def test_augment_off_is_the_identity_in_a_new_tensor() -> None:
    x = distinct(3, (2, 4, 5))
    out = random_crop_flip(x, 0, False, stream())
    assert torch.equal(out, x)
    assert out.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("crop", [1, 2])
def test_augment_gives_every_shift_and_about_half_mirrored(crop: int) -> None:
    x = distinct(400, (2, 5, 7))
    out = random_crop_flip(x, crop, True, stream())
    ways = [found_as(out[i].numpy(), x[i].numpy(), crop) for i in range(len(x))]
    assert None not in ways, "an output is no crop of its own image"
    shifts = range(-crop, crop + 1)
    assert {way[:2] for way in ways if way} == {(a, b) for a in shifts for b in shifts}
    assert 150 < sum(way[2] for way in ways if way) < 250


def test_augment_without_flip_never_mirrors() -> None:
    x = distinct(100, (1, 4, 4))
    out = random_crop_flip(x, 1, False, stream())
    for i in range(len(x)):
        way = found_as(out[i].numpy(), x[i].numpy(), 1)
        assert way is not None
        assert not way[2]


def test_augment_flip_alone_mirrors_whole_images() -> None:
    x = distinct(60, (1, 3, 4))
    out = random_crop_flip(x, 0, True, stream())
    same = (out == x).flatten(1).all(1)
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 10 < int(mirrored.sum()) < 50


def test_augment_depends_on_its_seed_alone_and_leaves_its_input() -> None:
    x = distinct(20, (3, 6, 6))
    kept = x.clone()
    torch.manual_seed(1)
    first = random_crop_flip(x, 2, True, stream(3))
    torch.manual_seed(2)
    assert torch.equal(first, random_crop_flip(x, 2, True, stream(3)))
    assert not torch.equal(first, random_crop_flip(x, 2, True, stream(4)))
    assert torch.equal(x, kept)


# ------------------------------------------------------------------------------------------------------------- statistics


def test_statistics_are_those_of_the_pixels() -> None:
    x = torch.randint(0, 256, (7, 3, 5, 4), generator=stream(), dtype=torch.uint8)
    x[:, 1] //= 3
    mean, std = channel_statistics(Images(x, torch.zeros(7, dtype=torch.int64)))
    values = x.numpy().astype(np.float64) / 255
    assert mean == pytest.approx(values.mean(axis=(0, 2, 3)), abs=5.1e-5)
    assert std == pytest.approx(values.std(axis=(0, 2, 3)), abs=5.1e-5)


def test_statistics_of_a_constant_channel_can_be_divided_by() -> None:
    x = torch.full((2, 1, 3, 3), 51, dtype=torch.uint8)
    mean, std = channel_statistics(Images(x, torch.zeros(2, dtype=torch.int64)))
    assert mean == (0.2,)
    assert std[0] >= 1e-3


# ----------------------------------------------------------------------------------------------------------------- digits


def test_digits_shapes_range_and_parts(tmp_path: Path) -> None:
    data = Digits().load(tmp_path)
    assert data.shape == (3, 16, 16)
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.classes == tuple("0123456789")
    for part in (data.train, data.test):
        assert part.x.dtype == torch.uint8
        assert part.y.dtype == torch.int64
        assert part.y.unique().tolist() == list(range(10))
    assert (int(data.train.x.min()), int(data.train.x.max())) == (0, 255)
    assert torch.equal(data.train.x[:, 0], data.train.x[:, 2])
    assert len(data.mean) == len(data.std) == 3


def test_digits_are_scikit_learns_and_no_test_image_is_trained_on(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    data = Digits(size=8, channels=1).load(tmp_path)
    assert data.shape == (1, 8, 8)
    expected = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    assert np.array_equal(data.test.x[:, 0].numpy(), expected[4::5])
    assert np.array_equal(data.test.y.numpy(), bunch.target[4::5])
    train = {row.tobytes() for row in data.train.x.numpy()}
    assert len(train) == len(data.train)
    assert not train & {row.tobytes() for row in data.test.x.numpy()}


def test_digits_grey_and_colour_agree(tmp_path: Path) -> None:
    grey, colour = Digits(channels=1).load(tmp_path), Digits(channels=3).load(tmp_path)
    assert grey.shape == (1, 16, 16)
    assert torch.equal(grey.test.x.expand(-1, 3, -1, -1), colour.test.x)
    assert (len(grey.mean), len(grey.std)) == (1, 1)


# ----------------------------------------------------------------------------------------------------------------- folder


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def solid(colour: tuple[int, int, int], size: int = 8) -> np.ndarray:
    return np.full((size, size, 3), colour, dtype=np.uint8)


def tree(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 2) -> Path:
    """A tree of solid PNGs; colour (split, class, number)."""
    for s, split in enumerate(("train", "test")):
        for c, name in enumerate(classes):
            for i in range(count):
                save(root / split / name / f"{i}.png", solid((100 * s, 50 * c, 10 * i)))
    return root


def test_folder_loads_a_tree(tmp_path: Path) -> None:
    root = tree(tmp_path / "pictures")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    save(root / "train" / "dog" / "extra.PNG", noise)
    save(root / "test" / "cat" / "photo.jpg", solid((200, 100, 0)))
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / ".hidden").mkdir()
    data = ImageFolder(root=str(root), size=8).load(tmp_path / "cache")
    assert data.classes == ("cat", "dog")
    assert data.shape == (3, 8, 8)
    assert data.train.y.tolist() == [0, 0, 1, 1, 1]
    assert data.test.y.tolist() == [0, 0, 0, 1, 1]
    assert data.train.x[1, :, 3, 3].tolist() == [0, 0, 10]
    assert data.train.x[3, :, 3, 3].tolist() == [0, 50, 10]
    assert np.array_equal(data.train.x[4].permute(1, 2, 0).numpy(), noise)
    assert data.test.x[2].float().mean((1, 2)).tolist() == pytest.approx([200, 100, 0], abs=3)
    expected = data.train.x.numpy().astype(np.float64) / 255
    assert data.mean == pytest.approx(expected.mean(axis=(0, 2, 3)), abs=1e-4)


def test_folder_decodes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, cache = ImageFolder(root=str(tree(tmp_path / "pictures")), size=8), tmp_path / "cache"
    opened: list[str] = []
    real = Image.open

    def spy(file: Path, **options: Any) -> Image.Image:
        opened.append(str(file))
        return real(file, **options)

    monkeypatch.setattr(Image, "open", spy)
    first = source.load(cache)
    assert len(opened) == 8
    second = source.load(cache)
    assert len(opened) == 8, "the second load decoded again"
    assert torch.equal(first.train.x, second.train.x)
    assert torch.equal(first.test.y, second.test.y)
    assert (first.mean, first.std, first.classes) == (second.mean, second.std, second.classes)
    shutil.rmtree(cache)
    source.load(cache)
    assert len(opened) == 16


def test_folder_sees_a_changed_file_and_keeps_sizes_apart(tmp_path: Path) -> None:
    root, cache = tree(tmp_path / "pictures"), tmp_path / "cache"
    changed = root / "train" / "cat" / "z.bmp"  # uncompressed: the new content is as long as the old
    save(changed, solid((1, 2, 3)))
    length, stamp = changed.stat().st_size, changed.stat().st_mtime_ns
    before = ImageFolder(root=str(root), size=8).load(cache)
    assert before.train.x[2, :, 0, 0].tolist() == [1, 2, 3]
    save(changed, solid((7, 8, 9)))
    os.utime(changed, ns=(stamp + 10**9, stamp + 10**9))
    assert changed.stat().st_size == length
    after = ImageFolder(root=str(root), size=8).load(cache)
    assert after.train.x[2, :, 0, 0].tolist() == [7, 8, 9]
    assert ImageFolder(root=str(root), size=16).load(cache).shape == (3, 16, 16)


def test_the_content_of_a_folder_is_its_images_and_not_its_place(tmp_path: Path) -> None:
    root, cache = tree(tmp_path / "pictures"), tmp_path / "cache"

    def content(folder: Path) -> str:
        return ImageFolder(root=str(folder), size=8).content(cache)

    first = content(root)
    assert first == content(root) == ImageFolder(root=str(root), size=16).content(tmp_path / "other cache")
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    (moved / "train" / "cat" / "notes.txt").write_text("no image")
    assert content(moved) == first
    found = {first}
    swapped = sorted((moved / "train" / "cat").glob("*.png"))[0]
    steps = (
        lambda: swapped.rename(swapped.with_name("another name.png")),
        lambda: swapped.with_name("another name.png").rename(moved / "train" / "dog" / "another name.png"),
        lambda: (moved / "train" / "dog" / "another name.png").rename(moved / "test" / "dog" / "another name.png"),
        lambda: save(moved / "test" / "dog" / "another name.png", solid((3, 1, 2))),
    )
    for step in steps:
        step()
        found.add(content(moved))
    assert len(found) == 1 + len(steps)


def test_folder_sees_a_file_replaced_under_its_old_time(tmp_path: Path) -> None:
    """As programs do that unpack or copy with times."""
    root, cache = tree(tmp_path / "pictures"), tmp_path / "cache"
    file = root / "train" / "cat" / "z.bmp"
    save(file, solid((1, 2, 3)))
    stat = file.stat()
    source = ImageFolder(root=str(root), size=8)
    before = source.content(cache)
    save(file, solid((7, 8, 9)))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert source.content(cache) != before
    assert source.load(cache).train.x[2, :, 0, 0].tolist() == [7, 8, 9]


def test_folder_does_not_believe_decoded_images_that_were_changed(tmp_path: Path) -> None:
    source, cache = ImageFolder(root=str(tree(tmp_path / "pictures")), size=8), tmp_path / "cache"
    first = source.load(cache)
    (cached,) = (cache / "decoded").iterdir()
    whole = cached.read_bytes()
    cached.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again = source.load(cache)
    assert torch.equal(first.train.x, again.train.x)
    assert torch.equal(first.test.y, again.test.y)
    assert cached.read_bytes() == whole


def test_folder_does_not_believe_a_fingerprint_that_was_changed(tmp_path: Path) -> None:
    source, cache = ImageFolder(root=str(tree(tmp_path / "pictures")), size=8), tmp_path / "cache"
    content = source.content(cache)
    (memory,) = (cache / "contents").iterdir()
    whole = memory.read_text()
    for changed in (whole.replace(whole[0], "0" if whole[0] != "0" else "1", 1), whole[:16], ""):
        memory.write_text(changed)
        assert source.content(cache) == content
        assert memory.read_text() == whole


def test_folder_replaces_a_damaged_cache(tmp_path: Path) -> None:
    source, cache = ImageFolder(root=str(tree(tmp_path / "pictures")), size=8), tmp_path / "cache"
    first = source.load(cache)
    (stored,) = cache.rglob("*.safetensors")
    stored.write_bytes(stored.read_bytes()[:100])
    assert torch.equal(source.load(cache).train.x, first.train.x)
    assert stored.stat().st_size > 100


@pytest.mark.parametrize("side", [8, 16, 20])
@pytest.mark.parametrize("lying", [True, False])
def test_folder_crops_the_centre_of_oblong_images(tmp_path: Path, side: int, lying: bool) -> None:
    root = tree(tmp_path / "pictures")
    red, green, blue = (solid(colour, side) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    save(root / "train" / "cat" / "oblong.png", np.concatenate([red, green, blue], axis=1 if lying else 0))
    data = ImageFolder(root=str(root), size=8).load(tmp_path / "cache")
    inner = data.train.x[2, :, 2:6, 2:6]  # resizing blends the outermost pixels with what is cut off
    assert inner.flatten(1).unique(dim=1).flatten().tolist() == [0, 255, 0]


def test_folder_turns_photographs_upright(tmp_path: Path) -> None:
    root = tree(tmp_path / "pictures")
    top_red = np.concatenate([solid((255, 0, 0), 16)[:8], solid((0, 0, 255), 16)[8:]])
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(top_red).save(root / "train" / "cat" / "turned.png", exif=exif)
    x = ImageFolder(root=str(root), size=16).load(tmp_path / "cache").train.x[2]
    assert x[:, 0, 0].tolist() == [0, 0, 255]
    assert x[:, 15, 0].tolist() == [255, 0, 0]


def grey_image() -> Image.Image:
    return Image.new("L", (8, 8), 40)


def rgba_image() -> Image.Image:
    return Image.new("RGBA", (8, 8), (40, 50, 60, 255))


def palette_image() -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 40, 50, 60])
    return image


def deep_grey_image() -> Image.Image:
    return Image.fromarray(np.full((8, 8), 40 * 257, dtype=np.uint16))


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (grey_image(), [40, 40, 40]),
        (rgba_image(), [40, 50, 60]),
        (palette_image(), [40, 50, 60]),
        (deep_grey_image(), [40, 40, 40]),
    ],
    ids=["grey", "rgba", "palette", "grey-16-bit"],
)
def test_folder_converts_to_rgb(tmp_path: Path, image: Image.Image, pixel: list[int]) -> None:
    root = tree(tmp_path / "pictures")
    image.save(root / "train" / "cat" / "z.png")
    data = ImageFolder(root=str(root), size=8).load(tmp_path / "cache")
    assert data.train.x[2, :, 4, 4].tolist() == pixel


def test_folder_loads_palette_images_with_transparency_without_a_warning(tmp_path: Path) -> None:
    root = tree(tmp_path / "pictures")
    palette_image().save(root / "train" / "cat" / "z.png", transparency=bytes([0, 128]))
    data = ImageFolder(root=str(root), size=8).load(tmp_path / "cache")
    assert data.train.x[2, :, 4, 4].tolist() == [40, 50, 60]


def test_folder_normalises_as_asked(tmp_path: Path) -> None:
    root = tree(tmp_path / "pictures")
    data = ImageFolder(root=str(root), size=8, normalise="imagenet").load(tmp_path / "cache")
    assert data.mean == (0.485, 0.456, 0.406)
    assert data.std == (0.229, 0.224, 0.225)


def test_folder_knows_the_home_folder_and_other_split_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree(tmp_path / "pictures") / "test").rename(tmp_path / "pictures" / "val")
    monkeypatch.setenv("HOME", str(tmp_path))
    data = ImageFolder(root="~/pictures", size=8, test="val").load(tmp_path / "cache")
    assert len(data.test) == 4


def test_folder_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        ImageFolder(root=str(tmp_path / "nowhere")).load(tmp_path / "cache")
    root = tree(tmp_path / "pictures")
    shutil.rmtree(root / "test")
    with pytest.raises(UserError, match=r"no folder .*test"):
        ImageFolder(root=str(root)).load(tmp_path / "cache")


def test_folder_needs_two_classes(tmp_path: Path) -> None:
    root = tree(tmp_path / "pictures", classes=("cat",))
    with pytest.raises(UserError, match="1 class folders; a classifier needs at least 2"):
        ImageFolder(root=str(root)).load(tmp_path / "cache")


def test_folder_needs_the_same_classes_in_both_splits(tmp_path: Path) -> None:
    root = tree(tmp_path / "pictures")
    (root / "test" / "dog").rename(root / "test" / "dogs")
    with pytest.raises(UserError, match="different class folders"):
        ImageFolder(root=str(root)).load(tmp_path / "cache")


@pytest.mark.parametrize("split", ["train", "test"])
def test_folder_with_an_empty_class(tmp_path: Path, split: str) -> None:
    root = tree(tmp_path / "pictures")
    for file in (root / split / "dog").iterdir():
        file.unlink()
    (root / split / "dog" / "readme.txt").write_text("soon")
    with pytest.raises(UserError, match=rf"class 'dog' is empty.*{split}"):
        ImageFolder(root=str(root)).load(tmp_path / "cache")


def test_folder_counts_what_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(tmp_path / "pictures")
    save(root / "train" / "cat" / "a.gif", solid((1, 2, 3)))
    (root / "train" / "dog" / "nested").mkdir()
    (root / "train" / "dog" / ".hidden").write_text("")
    (root / "train" / "__MACOSX").mkdir()
    for size in (8, 16):
        assert len(ImageFolder(root=str(root), size=size).load(tmp_path / "cache").train) == 4
    assert [r.getMessage() for r in caplog.records] == [
        f"{root / 'train'}: 2 files or folders that are no images by their ending are left out: {root / 'train/cat/a.gif'} ..."
    ]


def test_folder_names_a_pipe_and_a_broken_link(tmp_path: Path) -> None:
    root = tree(tmp_path / "pictures")
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    with pytest.raises(UserError, match=r"1 of 9 images do not decode.*\n.*pipe\.png is no regular file"):
        ImageFolder(root=str(root), size=8).load(tmp_path / "cache")
    (root / "train" / "cat" / "pipe.png").unlink()
    (root / "train" / "cat" / "link.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"link\.png cannot be read: No such file"):
        ImageFolder(root=str(root), size=8).load(tmp_path / "cache")


def test_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, real = tree(tmp_path / "pictures"), Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder == root / "train" / "cat":
            raise PermissionError(13, "Permission denied")  # whom root never meets
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(UserError, match="cat cannot be read: Permission denied"):
        ImageFolder(root=str(root), size=8).load(tmp_path / "cache")


def test_folder_escapes_control_characters_of_names(tmp_path: Path) -> None:
    root = tree(tmp_path / "pictures")
    (root / "train" / "cat" / "\x1b[2J.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"\\x1b\[2J\.png does not decode"):
        ImageFolder(root=str(root), size=8).load(tmp_path / "cache")


def test_folder_replaces_a_cache_of_other_keys(tmp_path: Path) -> None:
    source, cache = ImageFolder(root=str(tree(tmp_path / "pictures")), size=8), tmp_path / "cache"
    first = source.load(cache)
    (stored,) = cache.rglob("*.safetensors")
    stored.write_bytes(save_safetensors({"train_x": first.train.x}))
    assert torch.equal(source.load(cache).test.x, first.test.x)


def test_folder_names_and_counts_broken_images(tmp_path: Path) -> None:
    root = tree(tmp_path / "pictures", count=4)
    whole = (root / "train" / "dog" / "1.png").read_bytes()
    (root / "train" / "cat" / "0.png").write_bytes(b"")
    (root / "train" / "cat" / "2.png").write_text("this is no picture")
    (root / "test" / "dog" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="3 of 16 images do not decode") as caught:
        ImageFolder(root=str(root)).load(tmp_path / "cache")
    named = [line for line in str(caught.value).splitlines() if ".png" in line]
    assert len(named) == 3
    for line, name in zip(named, ("train/cat/0.png", "train/cat/2.png", "test/dog/1.png"), strict=True):
        assert name in line
    assert not list((tmp_path / "cache").rglob("*.safetensors")), "a broken tree was cached"


def test_folder_names_ten_broken_images_and_counts_the_rest(tmp_path: Path) -> None:
    root = tree(tmp_path / "pictures", count=6)
    for name in ("cat", "dog"):
        for i in range(6):
            (root / "train" / name / f"{i}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="12 of 24 images do not decode") as caught:
        ImageFolder(root=str(root)).load(tmp_path / "cache")
    assert str(caught.value).count(".png does not decode: ") == 10
    assert "and 2 more" in str(caught.value)


def test_folder_loads_real_photographs(tmp_path: Path) -> None:
    archive = SHARED / "clothing10-144px.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive} is not there: the photographs are shared with developers, not part of the repository")
    wanted = {(split, name): 3 for split in ("train", "test") for name in ("dress", "hat")}
    with tarfile.open(archive, mode="r|xz") as stored:
        for member in stored:
            split, _, rest = member.name.partition("/")
            name = rest.partition("/")[0]
            if member.isfile() and wanted.get((split, name), 0):
                wanted[split, name] -= 1
                target = tmp_path / "clothing" / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                content = stored.extractfile(member)
                assert content is not None
                target.write_bytes(content.read())
            if not any(wanted.values()):
                break
    data = ImageFolder(root=str(tmp_path / "clothing"), size=64).load(tmp_path / "cache")
    assert data.shape == (3, 64, 64)
    assert data.classes == ("dress", "hat")
    assert data.train.y.tolist() == data.test.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert all(0.2 < value < 0.9 for value in data.mean)
    assert bool((data.train.x.float().std((1, 2, 3)) > 10).all()), "a photograph came out flat"


# -------------------------------------------------------------------------------------------------------- torchvision sets


def fake_cifar(root: Path) -> None:
    """Two images in each of the six batches, in CIFAR-10's own layout: 1024 red, 1024 green, 1024 blue values by rows."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for b, name in enumerate(names):
        rows = np.repeat(np.array([[10, 20, 30]], dtype=np.uint8), 1024, axis=1).repeat(2, axis=0)
        rows[:, 2 * 32 + 5] = 100 + b  # row 2, column 5, red
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [b % 10, 9]}))
    labels = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": labels}))


def test_cifar10_reads_channels_rows_and_labels_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cifar(tmp_path / "cifar")
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = Cifar10(root=str(tmp_path / "cifar")).load(tmp_path / "cache")
    assert data.shape == (3, 32, 32)
    assert (len(data.train), len(data.test)) == (10, 2)
    assert data.train.x[:, :, 0, 0].unique(dim=0).tolist() == [[10, 20, 30]]
    assert data.train.x[:, 0, 2, 5].tolist() == [100, 100, 101, 101, 102, 102, 103, 103, 104, 104]
    assert data.train.x[0, :, 5, 2].tolist() == [10, 20, 30]
    assert data.train.y.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.test.y.tolist() == [5, 9]
    assert data.classes[0] == "airplane"
    assert data.classes[9] == "truck"
    assert data.mean == (0.4914, 0.4822, 0.4465)
    assert data.std == (0.247, 0.243, 0.261)


def test_cifar10_missing_and_not_to_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CIFAR-10 is not in .*cache"):
        Cifar10(download=False).load(tmp_path / "cache")


def test_imagenette_missing_and_not_to_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Imagenette is not in"):
        ImagenetteSet(root=str(tmp_path), download=False).load(tmp_path / "cache")


def test_a_mistyped_root_is_named_and_not_created(tmp_path: Path) -> None:
    for dataset in (ImagenetteSet, Cifar10):
        with pytest.raises(UserError, match=r"no folder .*there"):
            dataset(root=str(tmp_path / "there")).load(tmp_path / "cache")
    assert not (tmp_path / "there").exists()


def test_imagenette_loads_an_unpacked_tree(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for c, wnid in enumerate(("n01440764", "n02102040")):
            save(tmp_path / "imagenette2-160" / split / wnid / "a.JPEG", solid((90 * c, 90, 90), 40))
    data = ImagenetteSet(root=str(tmp_path), size=32).load(tmp_path / "cache")
    assert data.shape == (3, 32, 32)
    assert data.train.y.tolist() == data.test.y.tolist() == [0, 1]
    assert data.mean == (0.485, 0.456, 0.406)


# ------------------------------------------------------------------------------------------------------------------ split

SIZES = (30, 50, 20)


def numbered(sizes: tuple[int, ...] = SIZES) -> ImageData:
    """Training images that carry their index in two pixels, sorted by class; and three test images."""
    index = torch.arange(sum(sizes))
    x = torch.stack([index // 256, index % 256], dim=1).to(torch.uint8).view(-1, 1, 1, 2)
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    test = Images(torch.full((3, 1, 1, 2), 255, dtype=torch.uint8), torch.arange(3))
    return ImageData(Images(x, y), test, tuple("abcdefgh"[: len(sizes)]), (0.5,), (0.5,))


def numbers(images: Images) -> list[int]:
    return (images.x[:, 0, 0, 0].int() * 256 + images.x[:, 0, 0, 1].int()).tolist()


def budget_of(split: Split) -> list[int]:
    return numbers(split.clean) + numbers(split.validation)


@pytest.mark.parametrize(("amount", "size"), [({"images": 17}, 17), ({"per_class": 4}, 12), ({"percent": 10.0}, 10)])
@pytest.mark.parametrize("source", ["held-out", "training"])
def test_split_takes_each_kind_of_budget(amount: dict[str, float], size: int, source: str) -> None:
    data = numbered()
    split = make_split(data, CleanBudget(**amount, source=source), seed=1)  # type: ignore[arg-type]
    budget, train = budget_of(split), numbers(split.train)
    assert split.budget_size == len(budget) == len(set(budget)) == size
    if source == "held-out":
        assert sorted(budget + train) == list(range(100)), "an image is lost, doubled or in both"
    else:
        assert train == list(range(100))
    for part in (split.train, split.clean, split.validation):
        assert torch.equal(part.y, data.train.y[numbers(part)]), "a label has left its image"
    assert torch.equal(split.test.x, data.test.x)


def test_split_per_class_takes_as_many_of_each() -> None:
    split = make_split(numbered(), CleanBudget(per_class=5), seed=3)
    assert torch.bincount(torch.cat([split.clean.y, split.validation.y])).tolist() == [5, 5, 5]
    assert torch.bincount(split.train.y).tolist() == [25, 45, 15]


@pytest.mark.parametrize("amount", [{"images": 12}, {"per_class": 4}])
def test_split_draws_by_its_seed_alone(amount: dict[str, int]) -> None:
    budget = CleanBudget(**amount)  # type: ignore[arg-type]
    torch.manual_seed(1)
    first = make_split(numbered(), budget, seed=5)
    torch.manual_seed(2)
    again = make_split(numbered(), budget, seed=5)
    other = make_split(numbered(), budget, seed=6)
    assert budget_of(first) == budget_of(again)
    assert numbers(first.train) == numbers(again.train)
    assert set(budget_of(first)) != set(budget_of(other))


def test_split_spreads_the_validation_part_over_the_classes() -> None:
    split = make_split(numbered(), CleanBudget(per_class=5, validation=0.2), seed=0)
    assert torch.bincount(split.validation.y).tolist() == [1, 1, 1]
    assert torch.bincount(split.clean.y).tolist() == [4, 4, 4]


@pytest.mark.parametrize("share", [0.001, 0.5, 0.9])
def test_split_leaves_an_image_on_each_side(share: float) -> None:
    split = make_split(numbered(), CleanBudget(images=2, validation=share), seed=0)
    assert (len(split.clean), len(split.validation)) == (1, 1)


@pytest.mark.parametrize(
    ("share", "each"),
    [(0.2, [1] * 10), (0.4, [2] * 10), (0.6, [3] * 10)],
)
def test_validation_part_is_even(share: float, each: list[int]) -> None:
    y = torch.arange(50)[torch.randperm(50, generator=stream())] % 10
    part = validation_part(y, share)
    assert part.dtype == torch.bool
    assert torch.bincount(y[part], minlength=10).tolist() == each


def test_validation_part_smaller_than_the_classes_takes_none_twice() -> None:
    y = torch.arange(10).repeat(4)
    part = validation_part(y, 0.1)
    assert int(part.sum()) == 4
    assert len(y[part].unique()) == 4


@pytest.mark.parametrize("amounts", [{}, {"images": 10, "per_class": 1}, {"images": 10, "percent": 5.0}])
def test_budget_is_given_in_exactly_one_way(amounts: dict[str, float]) -> None:
    with pytest.raises(UserError, match="exactly one amount"):
        CleanBudget(**amounts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [{"images": 1}, {"per_class": 0}, {"percent": 0.0}, {"percent": 51.0}, {"images": 5, "validation": 0.0}, {"images": 5.5}],
)
def test_budget_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"CleanBudget\."):
        CleanBudget(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("amount", [{"images": 100}, {"images": 5000}, {"per_class": 20}, {"per_class": 21}])
def test_split_refuses_a_budget_larger_than_the_data(amount: dict[str, int]) -> None:
    with pytest.raises(UserError, match="larger than the data"):
        make_split(numbered(), CleanBudget(**amount), seed=0)  # type: ignore[arg-type]


def test_split_names_the_class_too_small_for_the_budget() -> None:
    with pytest.raises(UserError, match=r"class 'c' has 20"):
        make_split(numbered(), CleanBudget(per_class=30), seed=0)


def test_split_refuses_to_empty_a_class() -> None:
    with pytest.raises(UserError, match=r"class '[abc]' has no training image left"):
        make_split(numbered(), CleanBudget(images=99), seed=0)


def test_split_refuses_a_percentage_that_is_no_budget() -> None:
    with pytest.raises(UserError, match="at least 2"):
        make_split(numbered(), CleanBudget(percent=1.0), seed=0)


def test_the_home_of_nobody_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="~nobodyxyz: could not determine home directory; write the path out"):
        ImageFolder(root="~nobodyxyz").load(tmp_path)

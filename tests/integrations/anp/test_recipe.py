"""ANP's recipe end to end on a handful of pictures, and its files to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from mnp_plugin.cli import main
from mnp_plugin.contracts import Images
from mnp_plugin.core.errors import UserError
from mnp_plugin.integrations.anp import data as anp_data
from mnp_plugin.integrations.anp.data import (
    Evaluation,
    load_data,
    load_net,
    loss_and_accuracy,
    published_trigger,
    shuffled,
    stamp,
)
from mnp_plugin.integrations.anp.files import (
    MaskRow,
    PruningRow,
    TriggerInfo,
    read_masks,
    read_pruning,
    read_trigger,
    write_masks,
    write_pruning,
    write_trigger,
)
from mnp_plugin.integrations.anp.recipe import prune_by
from mnp_plugin.io.safe import read_plain, read_tensors
from mnp_plugin.nets.resnet import ResNet18

# ------------------------------------------------------------------------------------------------------------------- files

ROWS = [
    PruningRow(2, "layer4.1.bn2", 17, 0.15000000000000002, 2.3, 0.9, 0.25, 0.5),
    PruningRow(40, "layer2.0.shortcut.1", 3, 0.2, 0.125, 1.0, 12.5, 0.0625),
]


def test_mask_values_are_written_to_the_byte(tmp_path: Path) -> None:
    rows = [MaskRow("bn1", 0, 1.0), MaskRow("layer2.0.shortcut.1", 127, 0.00004)]
    write_masks(tmp_path / "m.txt", rows)
    assert (tmp_path / "m.txt").read_bytes() == (
        b"No \t Layer Name \t Neuron Idx \t Mask Score \n0 \t bn1 \t 0 \t 1.0000 \n1 \t layer2.0.shortcut.1 \t 127 \t 0.0000 \n"
    )
    assert read_masks(tmp_path / "m.txt") == [rows[0], MaskRow("layer2.0.shortcut.1", 127, 0.0)]


def test_pruning_files_are_written_to_the_byte_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    head = b"No \t Layer Name \t Neuron Idx \t Mask \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC\n"
    first = b"layer4.1.bn2 \t 17 \t 0.15000000000000002 \t 2.3000 \t 0.9000 \t 0.2500 \t 0.5000"
    second = b"layer2.0.shortcut.1 \t 3 \t 0.2 \t 0.1250 \t 1.0000 \t 12.5000 \t 0.0625"
    write_pruning(path, ROWS, "threshold")
    assert path.read_bytes() == head + b"2.00 \t " + first + b"\n40.00 \t " + second + b"\n"
    assert read_pruning(path) == ROWS
    write_pruning(path, ROWS, "number")
    assert path.read_bytes() == head + b"2 \t " + first + b"40 \t " + second  # one long line, as published
    assert read_pruning(path) == ROWS
    write_pruning(path, ROWS, "number", newlines=True)
    assert path.read_bytes() == head + b"2 \t " + first + b"\n40 \t " + second + b"\n"
    assert read_pruning(path) == ROWS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "heading"),
        ("No \t Layer\n", "holds no mask"),
        ("No\n0 bn1 0\n", "line 2"),
        ("No\n0 bn1 0 0.5\n1 bn1 1 1.5\n", "line 3"),
        ("No\n0 bn1 0 nan\n", "line 2"),
        ("No\n0 bn1 -1 0.5\n", "line 2"),
        ("No\n0 bn1 x 0.5\n", "line 2"),
        (f"No\n0 bn1 {'1' * 5000} 0.5\n", "line 2"),
    ],
)
def test_masks_that_are_none_are_named(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text(text)
    with pytest.raises(UserError, match=rf"m\.txt.*{reason}"):
        read_masks(tmp_path / "m.txt")


def test_a_pruning_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    long = f"No\n2 \t bn1 \t {'1' * 5000} \t 0.1 \t 1.0000 \t 1.0000 \t 1.0000 \t 1.0000\n"
    for text in ("", "No\n", "No\n2 \t bn1 \t 1 \t 0.1 \t 1.0000 \t 1.0000 \t 1.0000\n", long, long.replace("2", "2" * 5000, 1)):
        path.write_text(text)
        with pytest.raises(UserError, match=r"p\.txt"):
            read_pruning(path)
    path.write_bytes(b"\xff\xfe")
    for read in (read_pruning, read_masks):
        with pytest.raises(UserError, match="no text file"):
            read(path)
        with pytest.raises(UserError, match="no file"):
            read(tmp_path / "missing.txt")


def test_the_trigger_file_holds_what_their_scripts_read(tmp_path: Path) -> None:
    path = tmp_path / "trigger_info.th"
    trigger = published_trigger("badnets", 3, 1.0, torch.tensor([4, 9]))
    assert trigger is not None
    write_trigger(path, trigger)
    raw = read_plain(path)
    assert list(raw) == ["trigger_pattern", "trigger_mask", "trigger_alpha", "poison_target", "data_index"]
    assert raw["trigger_pattern"].shape == raw["trigger_mask"].shape == (1, 32, 32, 1)
    assert raw["trigger_pattern"].dtype == raw["trigger_mask"].dtype == np.uint8
    assert raw["trigger_pattern"][0, 29:, 29:, 0].tolist() == [[0, 0, 255], [0, 255, 0], [255, 0, 255]]
    assert raw["trigger_pattern"][0, 0, 0, 0] == 122
    assert raw["trigger_mask"].sum() == 9
    assert raw["poison_target"].tolist() == [3]
    again = read_trigger(path)
    assert (again.target, again.alpha) == (3, 1.0)
    assert again.data_index is not None
    assert again.data_index.tolist() == [4, 9]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trigger_pattern", np.zeros((1, 32, 32, 2), np.uint8)),
        ("trigger_pattern", np.zeros((32, 32, 1), np.uint8)),
        ("trigger_mask", np.full((1, 32, 32, 1), 2, np.uint8)),
        ("trigger_mask", np.zeros((1, 16, 32, 1), np.uint8)),
        ("trigger_mask", np.zeros((1, 32, 32, 1))),
        ("trigger_alpha", 1.5),
        ("trigger_alpha", "1"),
        ("poison_target", np.array([1, 2])),
        ("poison_target", np.array([-1])),
        ("data_index", np.array(["a"])),
    ],
)
def test_a_trigger_that_is_none_is_named(key: str, value: object, tmp_path: Path) -> None:
    sound = {
        "trigger_pattern": np.zeros((1, 32, 32, 1), np.uint8),
        "trigger_mask": np.ones((1, 32, 32, 1), np.uint8),
        "trigger_alpha": 0.5,
        "poison_target": np.array([0]),
    }
    torch.save({**sound, key: value}, tmp_path / "t.th")
    with pytest.raises(UserError, match=rf"t\.th: .*{key}"):
        read_trigger(tmp_path / "t.th")


# ---------------------------------------------------------------------------------------------------------------- triggers


def test_stamps_follow_the_published_arithmetic() -> None:
    x = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for kind, alpha, where in (("badnets", 1.0, 9), ("clean-label", 0.6, 36), ("blend", 0.2, 1024)):
        trigger = published_trigger(kind, 0, alpha)
        assert trigger is not None
        assert trigger.mask.sum() == where
        image = x.permute(0, 2, 3, 1).numpy().astype(np.float64)
        mixed = (1 - alpha) * image + alpha * trigger.pattern
        expected = np.where(trigger.mask == 1, mixed, image).astype(np.uint8)  # cut off, not rounded
        assert np.array_equal(stamp(x, trigger).permute(0, 2, 3, 1).numpy(), expected)


def test_the_clean_label_corners_mirror_the_grid() -> None:
    trigger = published_trigger("clean-label", 0, 1.0)
    assert trigger is not None
    pattern = trigger.pattern[0, :, :, 0]
    assert pattern[:3, 29:].tolist() == pattern[29:, 29:].tolist() == [[0, 0, 255], [0, 255, 0], [255, 0, 255]]
    assert pattern[:3, :3].tolist() == pattern[29:, :3].tolist() == [[255, 0, 0], [0, 255, 0], [255, 0, 255]]


def test_a_shuffle_file_is_a_permutation(tmp_path: Path) -> None:
    path = tmp_path / "shuffle.txt"
    path.write_text("2\n0\n1\n")
    assert shuffled(3, path).tolist() == [2, 0, 1]
    assert sorted(shuffled(7).tolist()) == list(range(7))
    for text in ("0\n1\n", "0\n1\n1\n", "0\n1\n5\n", "a\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"shuffle\.txt"):
            shuffled(3, path)


# --------------------------------------------------------------------------------------------------------------- the chain


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty training and twenty test pictures of the digits 0 to 3, 32 pixels square."""
    root = tmp_path_factory.mktemp("pictures")
    digits = load_digits()
    for label in range(4):
        of_class = digits.images[digits.target == label]
        for split, part in (("train", of_class[:15]), ("test", of_class[15:20])):
            folder = root / split / f"digit{label}"
            folder.mkdir(parents=True)
            for i, picture in enumerate(part):
                Image.fromarray((picture / 16 * 255).astype(np.uint8)).resize((32, 32)).convert("RGB").save(folder / f"{i}.png")
    return root


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ResNet-18 of width 4: the same layers, thousands of times cheaper."""
    monkeypatch.setitem(anp_data.ARCHS, "resnet18", ResNet18(width=4))


def anp(folder: Path, tree: Path, step: str, *more: str) -> int:
    common = ["--data-dir", str(tree), "--output-dir", str(folder), "--batch-size", "16", "--store", str(folder / "cache")]
    return main(["anp", step, *common, "--device", "cpu", *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Path:
    """What step 1 left behind."""
    folder = tmp_path_factory.mktemp("save")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(anp_data.ARCHS, "resnet18", ResNet18(width=4))
        assert (
            anp(folder, tree, "train-backdoor", "--epoch", "3", "--schedule", "1", "--save-every", "2", "--poison-rate", ".2")
            == 0
        )
    return folder


def test_step_1_writes_what_the_recipe_writes(trained: Path) -> None:
    assert {p.name for p in trained.iterdir()} == {
        "model_init.th", "model_1.th", "model_last.th", "last_model.th", "trigger_info.th", "output.log", "cache",
    }  # fmt: skip
    last, first = read_tensors(trained / "model_last.th"), read_tensors(trained / "model_init.th")
    other = read_tensors(trained / "last_model.th")
    assert list(last) == list(ResNet18(width=4).build(4, (3, 32, 32)).state_dict())
    assert all(torch.equal(value, other[key]) for key, value in last.items())
    assert not torch.equal(last["linear.weight"], first["linear.weight"])
    log = [line.split("] - ")[1] for line in (trained / "output.log").read_text().splitlines()]
    assert log[1] == "Epoch \t lr \t Time \t TrainLoss \t TrainACC \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC"
    assert [line.split()[:2] for line in log[2:]] == [["1", "0.100"], ["2", "0.010"]]  # epochs 1 to 2; the milestone is after 1
    trigger = read_trigger(trained / "trigger_info.th")
    assert trigger.data_index is not None
    assert len(trigger.data_index) == len(set(trigger.data_index.tolist())) > 0


def test_the_chain_ends_in_rows_that_a_recount_confirms(trained: Path, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, trigger_file = str(trained / "last_model.th"), str(trained / "trigger_info.th")
    known = ["--checkpoints", checkpoint, "--trigger-info", trigger_file]
    assert (
        anp(trained, tree, "optimize-mask", *known, "--nb-iter", "3", "--print-every", "2", "--val-frac", "0.2", "--lr", "2") == 0
    )
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "Iter \t lr \t Time \t TrainLoss \t TrainACC \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC"
    assert [line.split()[0] for line in table[1:3]] == ["2", "4"]  # whole rounds, as in the recipe
    masks = read_masks(trained / "mask_values.txt")
    assert len(masks) == 300  # 4 800 at width 64
    assert [m.layer for m in masks[:4]] == ["bn1"] * 4
    assert min(m.score for m in masks) < 1

    data = load_data(tree, trained / "cache")
    trigger = read_trigger(trained / "trigger_info.th")
    order = sorted(masks, key=lambda m: m.score)

    def recount(pruned: list[MaskRow]) -> list[float]:
        state = read_tensors(trained / "model_last.th")
        for mask in pruned:
            state[f"{mask.layer}.weight"][mask.index] = 0
        net = load_net("resnet18", 4, trained / "model_last.th")
        net.load_state_dict(state)
        part = data.test[data.test.y != trigger.target]
        bad = Images(stamp(part.x, trigger), torch.zeros_like(part.y) + trigger.target)
        device = torch.device("cpu")
        found = (*loss_and_accuracy(net, bad, 16, device), *loss_and_accuracy(net, data.test, 16, device))
        return [round(value, 4) for value in found]

    prune = ["--checkpoint", checkpoint, "--trigger-info", trigger_file, "--mask-file", str(trained / "mask_values.txt")]
    assert anp(trained, tree, "prune", *prune, "--pruning-max", "0.9", "--pruning-step", "0.3") == 0
    rows = read_pruning(trained / "pruning_by_threshold.txt")
    assert [row.mask for row in rows] == [0.0, 0.3, 0.6, 0.8999999999999999]
    for row in rows:
        cut = [m for m in order if m.score <= row.mask]
        spared = order[min(len(cut), 299)]
        assert (row.pruned, row.layer, row.index) == (len(cut), spared.layer, spared.index)
        assert [row.poison_loss, row.poison_acc, row.clean_loss, row.clean_acc] == pytest.approx(recount(cut), abs=2e-4)

    assert anp(trained, tree, "prune", *prune, "--pruning-by", "number", "--pruning-max", "20", "--pruning-step", "20") == 0
    assert (trained / "pruning_by_number.txt").read_text().count("\n") == 1
    rows = read_pruning(trained / "pruning_by_number.txt")
    assert [row.pruned for row in rows] == [20, 40]
    for row in rows:
        last = order[row.pruned - 1]
        assert (row.layer, row.index, row.mask) == (last.layer, last.index, last.score)
        found = [row.poison_loss, row.poison_acc, row.clean_loss, row.clean_acc]
        assert found == pytest.approx(recount(order[: row.pruned]), abs=2e-4)


@pytest.mark.thorough
def test_mnp_writes_its_masks_in_the_same_format(
    trained: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnp_plugin.defenses.mnp import MNP

    checkpoint = ["--checkpoint", str(trained / "model_last.th"), "--poison-type", "badnets"]
    with monkeypatch.context() as patch:
        made = MNP.__init__
        small = {"steps": 2, "suppression_steps": 1, "recover_steps": 1, "agreement": 0.01}
        patch.setattr(MNP, "__init__", lambda self, **given: made(self, **{**small, **given}))
        assert anp(tmp_path, tree, "optimize-mask", *checkpoint, "--method", "mnp", "--val-frac", "0.3") == 0
    masks = read_masks(tmp_path / "mask_values.txt")
    assert len(masks) == 300
    assert min(m.score for m in masks) < 1


def test_pruning_everything_ends_instead_of_failing(trained: Path, tree: Path) -> None:
    data = load_data(tree, trained / "cache")
    test = Evaluation(data=data, trigger=None, batch_size=16, device=torch.device("cpu"))
    masks = [MaskRow("bn1", i, i / 4) for i in range(4)]
    net = load_net("resnet18", 4, trained / "model_last.th")
    rows = prune_by(net, masks, "number", 100, 3, test, lambda line: None)
    assert [row.pruned for row in rows] == [3, 4]
    assert (rows[-1].poison_acc, rows[-1].poison_loss) == (rows[-1].clean_acc, rows[-1].clean_loss)  # no trigger is known
    net = load_net("resnet18", 4, trained / "model_last.th")
    rows = prune_by(net, masks, "threshold", 1.0, 0.5, test, lambda line: None)
    assert [(row.pruned, row.index) for row in rows] == [(1, 1), (3, 3), (4, 3)]


def test_their_names_are_ours() -> None:
    net = ResNet18().build(10, (3, 32, 32))
    norms = [name for name, module in net.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert sum(net.get_parameter(f"{name}.weight").numel() for name in norms) == 4800
    assert {"layer4.1.bn2", "layer2.0.shortcut.1", "bn1"} <= set(norms)
    assert "linear.weight" in net.state_dict()


@pytest.mark.parametrize(
    ("step", "more", "reason"),
    [
        ("train-backdoor", ["--epoch", "1"], "--epoch 1 trains nothing"),
        ("train-backdoor", ["--arch", "resnet34"], "--arch resnet34 is not provided"),
        ("train-backdoor", ["--poison-target", "4"], "outside the classes 0..3"),
        ("train-backdoor", ["--poison-rate", "0.001"], "is none; raise it"),
        ("train-backdoor", ["--poison-type", "clean-label"], "needs --clb-dir"),
        ("train-backdoor", ["--poison-type", "clean-label", "--clb-dir", "/nowhere"], "there is no such file"),
        ("train-backdoor", ["--data-dir", "/nowhere"], "no folder /nowhere"),
        ("optimize-mask", ["--checkpoint", "/nowhere.th"], "there is no such file"),
        ("optimize-mask", ["--checkpoint", "{trained}/trigger_info.th"], "there is no state dict in it"),
        ("optimize-mask", ["--checkpoint", "{trained}/model_last.th", "--nb-iter", "0"], "iterations must be >= 1"),
        ("optimize-mask", ["--checkpoint", "{trained}/model_last.th", "--val-frac", "0.001"], "at least 2 are needed"),
        (
            "optimize-mask",
            ["--checkpoint", "{trained}/model_last.th", "--trigger-info", "{trained}/model_last.th"],
            "trigger_pattern",
        ),
        ("prune", ["--checkpoint", "{trained}/model_last.th", "--mask-file", "/nowhere.txt"], "no file /nowhere.txt"),
        ("prune", ["--checkpoint", "{trained}/model_last.th", "--mask-file", "{other}"], "these masks are of another net"),
        ("prune", ["--checkpoint", "{trained}/model_last.th", "--mask-file", "{good}", "--pruning-step", "0"], "--pruning-step"),
    ],
)
def test_mistakes_are_one_message(
    step: str, more: list[str], reason: str, trained: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_masks(tmp_path / "other.txt", [MaskRow("features.1", 0, 0.5)])
    write_masks(tmp_path / "good.txt", [MaskRow("bn1", 0, 0.5)])
    places = {"trained": str(trained), "other": str(tmp_path / "other.txt"), "good": str(tmp_path / "good.txt")}
    assert anp(tmp_path, tree, step, *(word.format(**places) for word in more)) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert "Traceback" not in said


def test_clean_label_sets_are_taken_as_they_are(tree: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "train_images.npy", rng.integers(0, 256, (20, 32, 32, 3)).astype(np.float32))
    np.save(tmp_path / "train_labels.npy", np.arange(20) % 4)
    more = ["--poison-type", "clean-label", "--clb-dir", str(tmp_path), "--epoch", "2"]
    assert anp(tmp_path / "out", tree, "train-backdoor", *more) == 0
    trigger = read_trigger(tmp_path / "out" / "trigger_info.th")
    assert isinstance(trigger, TriggerInfo)
    assert trigger.mask.sum() == 36
    assert trigger.data_index is None
    np.save(tmp_path / "train_labels.npy", np.arange(20) + 2)
    assert anp(tmp_path / "out", tree, "train-backdoor", *more) == 2

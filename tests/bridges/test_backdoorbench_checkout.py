"""Against a real BackdoorBench checkout: their command lines, our scripts, the same victim measured by both.

    BACKDOORBENCH_ROOT=~/BackdoorBench python -m pytest -m slow tests/bridges/test_backdoorbench_checkout.py

The checkout is copied, never changed. ``BACKDOORBENCH_PYTHON`` names a Python that has BackdoorBench's packages and this one (the
running one by default). Some minutes of CPU: 500 training and 200 test images, or whatever ``CIFAR10_ROOT`` has.
"""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = os.environ.get("BACKDOORBENCH_ROOT", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ROOT, reason="BACKDOORBENCH_ROOT does not name a BackdoorBench checkout"),
]
PYTHON = os.environ.get("BACKDOORBENCH_PYTHON", sys.executable)
PACKAGE = Path(__file__).parents[2]

COMPAT = """\
import os
import numpy
import torchvision.datasets.cifar
numpy.infty = numpy.inf  # their plots ask for it; NumPy 2 has it no more
torchvision.datasets.cifar.check_integrity = lambda path, md5=None: os.path.isfile(path)  # home-made batches
"""
SUITE = """\
suite: ours
dataset: {{name: cifar10, root: {root}/data/cifar10, download: false}}
net: preactresnet18
recipe: {{epochs: 2, batch_size: 32, lr: 0.05, precision: float32}}
clean_budget: {{images: 50}}
gate: {{asr: 0.0}}
attacks:
  - {{name: badnets, pattern: white, size: 8, poison_ratio: 0.3}}
defenses: [none]
"""
FOREIGN = """\
suite: foreign
recipe: {{precision: float32}}
clean_budget: {{images: 50}}
gate: {{asr: 0.0}}
victims: {{backdoorbench: {root}/record}}
defenses: [none]
"""
CPU = ["--device", "cpu", "--num_workers", "0", "--pin_memory", "False"]


class Checkout:
    """A copy of their checkout with a small CIFAR-10 in it."""

    def __init__(self, root: Path, compat: Path) -> None:
        self.root = root
        skip = shutil.ignore_patterns(".git", "analysis", "backdoorbench_nlp", "for_imagenet")
        shutil.copytree(ROOT, root, ignore=skip, dirs_exist_ok=True)
        (root / "record").mkdir(exist_ok=True)
        compat.mkdir()
        (compat / "sitecustomize.py").write_text(COMPAT)
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{compat}{os.pathsep}{PACKAGE}",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }

    def run(self, *words: str, unpickle: bool = False) -> None:
        """A command in the checkout; ``unpickle`` lets their own scripts load their own record under torch 2.6 and later."""
        extra = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"} if unpickle else {}
        done = subprocess.run([PYTHON, *words], cwd=self.root, env={**self.environment, **extra}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    def scores(self, path: str) -> tuple[float, float, float]:
        """(ACC, ASR, RA) of the last row of a table of theirs."""
        row = list(csv.DictReader((self.root / path).read_text().splitlines()))[-1]
        return float(row["test_acc"]), float(row["test_asr"]), float(row["test_ra"])

    def measured_here(self, tmp_path: Path, name: str) -> tuple[float, float, float]:
        """(ACC, ASR, RA) of record ``name``, measured by our benchmark."""
        (tmp_path / "foreign.yaml").write_text(FOREIGN.format(root=self.root))
        results = tmp_path / f"results_{name}"
        words = ["run", str(tmp_path / "foreign.yaml"), "--device", "cpu", "--store", str(tmp_path / "store")]
        self.run("-m", "mnp_plugin.cli", *words, "--results", str(results), "--attacks", name)
        (file,) = (results / "foreign" / "records").glob("*.json")
        before = json.loads(file.read_text())["before"]
        return before["acc"], before["asr"], before["ra"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    place = tmp_path_factory.mktemp("theirs")
    made = Checkout(place / "checkout", place / "compat")
    _small_cifar(made.root / "data" / "cifar10")
    white = np.zeros((32, 32, 3), np.uint8)
    white[-8:, -8:] = 255
    Image.fromarray(white).save(made.root / "resource" / "badnet" / "white.png")
    made.run("-m", "mnp_plugin.cli", "bridge", "install", "--root", ".")
    return made


def _small_cifar(folder: Path) -> None:
    """500 training and 200 test images in torchvision's layout: of ``CIFAR10_ROOT`` (a class tree), else coloured noise."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    tree = os.environ.get("CIFAR10_ROOT", "")
    noise = np.random.default_rng(0)
    names = sorted(p.name for p in (Path(tree) / "train").iterdir()) if tree else [f"class{i}" for i in range(10)]
    for part, split, per_class in [(f"data_batch_{i + 1}", "train", range(i * 10, i * 10 + 10)) for i in range(5)] + [
        ("test_batch", "test", range(20))
    ]:
        rows, labels = [], []
        for i in per_class:
            for label, name in enumerate(names):
                if tree:
                    file = sorted((Path(tree) / split / name).iterdir())[i]
                    picture = np.asarray(Image.open(file).convert("RGB").resize((32, 32)))
                else:
                    mean = 25 * label + noise.integers(-20, 20, (32, 32, 3))
                    picture = mean.clip(0, 255).astype(np.uint8)
                rows.append(picture.transpose(2, 0, 1).reshape(-1))
                labels.append(label)
        (batches / part).write_bytes(pickle.dumps({"data": np.stack(rows), "labels": labels}))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))


def test_their_attack_our_defense_by_their_command_line(checkout: Checkout, tmp_path: Path) -> None:
    words = ["--yaml_path", "config/attack/prototype/cifar10.yaml", "--patch_mask_path", "resource/badnet/white.png"]
    words += ["--save_folder_name", "theirs", "--epochs", "2", "--batch_size", "32", "--lr", "0.02", "--pratio", "0.3", *CPU]
    checkout.run("attack/badnet.py", *words)
    record = "record/theirs"
    attacked = checkout.scores(f"{record}/attack_df.csv")
    assert checkout.measured_here(tmp_path, "theirs") == pytest.approx(attacked, abs=1e-12)
    common = ["--result_file", "theirs", "--dataset", "cifar10", "--ratio", "0.2", *CPU]
    none = ["--defense", "none", "--yaml_path", "./config/defense/mnp_plugin_defense/cifar10.yaml"]
    checkout.run("./defense/mnp_plugin_defense.py", *none, *common)
    untouched = checkout.scores(f"{record}/defense/mnp_plugin_none/mnp_plugin_none_df_summary.csv")
    assert untouched == pytest.approx(attacked, abs=1e-12)
    quick = ["--suppression_epochs", "1", "--recover_epochs", "1", "--levels", "2", "--level_steps", "2", "--batch_size", "32"]
    checkout.run("./defense/mnp.py", "--yaml_path", "./config/defense/mnp/cifar10.yaml", *common, *quick)
    folder = checkout.root / record / "defense" / "mnp"
    assert 0 <= checkout.scores(f"{record}/defense/mnp/mnp_df_summary.csv")[0] <= 1
    assert len((folder / "log" / "index.txt").read_text().split()) == 100
    result = torch.load(folder / "defense_result.pt", weights_only=True)
    assert list(result) == ["model_name", "num_classes", "model"]
    assert len(result["model"]) == 102


def test_our_victim_their_anp_by_their_command_line(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text(SUITE.format(root=checkout.root))
    places = ["--store", str(tmp_path / "store"), "--results", str(tmp_path / "results")]
    checkout.run("-m", "mnp_plugin.cli", "run", str(tmp_path / "ours.yaml"), "--device", "cpu", *places)
    export = ["bridge", "export", str(tmp_path / "ours.yaml"), "--attack", "badnets", "--out", "record/ours", *places]
    checkout.run("-m", "mnp_plugin.cli", *export)
    exported = checkout.scores("record/ours/attack_df.csv")
    assert checkout.measured_here(tmp_path, "ours") == pytest.approx(exported, abs=1e-12)
    words = ["--result_file", "ours", "--yaml_path", "./config/defense/anp/cifar10.yaml", "--dataset", "cifar10", *CPU]
    words += ["--ratio", "0.2", "--batch_size", "32", "--nb_iter", "2", "--print_every", "2", "--pruning_step", "0.9"]
    checkout.run("./defense/anp.py", *words, unpickle=True)
    folder = checkout.root / "record/ours/defense/anp"
    assert len((folder / "checkpoint/mask_values.txt").read_text().splitlines()) == 1 + 3392
    first = next(csv.DictReader((folder / "threshold_df.csv").read_text().splitlines()))
    found = tuple(float(first[key]) for key in ("test_acc", "test_asr", "test_ra"))
    assert float(first["threshold"]) == 0
    if not _pruned_at_zero(folder):
        assert found == pytest.approx(exported, abs=1e-12)


def _pruned_at_zero(folder: Path) -> bool:
    rows = [line.split() for line in (folder / "checkpoint/mask_values.txt").read_text().splitlines()[1:]]
    return any(float(score) == 0 for *_, score in rows)

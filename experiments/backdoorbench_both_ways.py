"""Both ways through a real BackdoorBench checkout, by its command lines and ours, with the figures each way.

    python experiments/backdoorbench_both_ways.py ~/BackdoorBench data/cifar10-jpeg --work /tmp/both

1. Their attack (BadNets) -> measured by our benchmark -> our MNP by their command line.
2. Our victim (BadNets) -> exported -> measured by our benchmark -> their ANP by their command line -> our ANP beside it.

Works on a copy of the checkout with a small CIFAR-10 in it (``--train`` and ``--test`` images of each class), so that it takes an
hour on one core. ``--python`` names a Python with BackdoorBench's packages and this one. Prints every command, and then the
figures as Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE = Path(__file__).parents[1]
CPU = ["--device", "cpu", "--num_workers", "0", "--pin_memory", "False"]
COMPAT = """\
import os
import numpy
import torchvision.datasets.cifar
numpy.infty = numpy.inf  # their plots ask for it; NumPy 2 has it no more
torchvision.datasets.cifar.check_integrity = lambda path, md5=None: os.path.isfile(path)  # home-made batches
"""
FOREIGN = """\
suite: foreign
recipe: {{precision: float32}}
clean_budget: {{images: 50}}
gate: {{asr: 0.0}}
victims: {{backdoorbench: {root}/record}}
defenses: [none]
"""
OURS = """\
suite: ours
dataset: {{name: cifar10, root: {root}/data/cifar10, download: false}}
net: preactresnet18
recipe: {{epochs: {epochs}, batch_size: {batch}, lr: 0.05, precision: float32}}
clean_budget: {{images: 50}}
gate: {{asr: 0.0}}
attacks:
  - {{name: badnets, pattern: white, size: {side}, poison_ratio: {ratio}}}
defenses: [none]
"""

SIDE = 8
"""Of the white square, the trigger, in pixels."""

QUICK = ["--steps", "60", "--restore_steps", "60", "--batch_size", "64"]
"""For our MNP, whose published size takes hours on a core with a net of theirs."""

Scores = tuple[float, float, float]
"""ACC, ASR, RA, fractions."""


class Checkout:
    """A copy of their checkout, with our package in reach and a small CIFAR-10 in it.

    Args:
        source: their checkout, which stays as it is.
        work: folder for the copy and everything else; a copy that lies there already is used as it is.
        python: what runs every command.
        tree: class tree of pictures (``train/<class>``, ``test/<class>``); without one coloured noise.
        train: images of each class.
        test: images of each class.
    """

    def __init__(self, source: str, work: Path, *, python: str, tree: str, train: int = 50, test: int = 20) -> None:
        self.root, self.work, self.python = work / "checkout", work, python
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{work / 'compat'}{os.pathsep}{PACKAGE}",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        if self.root.is_dir():
            return
        skip = shutil.ignore_patterns(".git", "analysis", "backdoorbench_nlp", "for_imagenet")
        shutil.copytree(source, self.root, ignore=skip)
        (self.root / "record").mkdir(exist_ok=True)
        (work / "compat").mkdir()
        (work / "compat" / "sitecustomize.py").write_text(COMPAT)
        small_cifar(self.root / "data" / "cifar10", tree, train, test)
        white = np.zeros((32, 32, 3), np.uint8)
        white[-SIDE:, -SIDE:] = 255
        Image.fromarray(white).save(self.root / "resource" / "badnet" / "white.png")
        self.bench("bridge", "install", "--root", ".")

    def run(self, *words: str, unpickle: bool = False) -> str:
        """A command in the checkout; ``unpickle`` lets their own scripts load their own record under torch 2.6 and later."""
        extra = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"} if unpickle else {}
        print("$", *(f"{k}={v}" for k, v in extra.items()), "python", shlex.join(words), flush=True)
        command, environment = [self.python, *words], {**self.environment, **extra}
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def bench(self, *words: str) -> str:
        """``mnp-bench``."""
        return self.run("-m", "mnp_plugin", *words)

    def scores(self, path: str) -> Scores:
        """The last row of a table of theirs."""
        return _scores(list(csv.DictReader((self.root / path).read_text().splitlines()))[-1])

    def their_attack(self, name: str, *, epochs: int, batch: int, ratio: float) -> Scores:
        """Their BadNets into ``record/<name>``, as their evaluation finds it."""
        words = ["--yaml_path", "config/attack/prototype/cifar10.yaml", "--patch_mask_path", "resource/badnet/white.png"]
        words += ["--save_folder_name", name, "--epochs", str(epochs), "--batch_size", str(batch), "--lr", "0.02"]
        self.run("attack/badnet.py", *words, "--pratio", str(ratio), *CPU)
        return self.scores(f"record/{name}/attack_df.csv")

    def our_victim(self, name: str, *, epochs: int, batch: int, ratio: float) -> Scores:
        """Our BadNets, exported to ``record/<name>``, as the export says."""
        suite = self.work / "ours.yaml"
        suite.write_text(OURS.format(root=self.root, epochs=epochs, batch=batch, ratio=ratio, side=SIDE))
        places = ["--store", str(self.work / "store"), "--results", str(self.work / "results")]
        self.bench("run", str(suite), "--device", "cpu", *places)
        self.bench("bridge", "export", str(suite), "--attack", "badnets", "--out", f"record/{name}", *places)
        return self.scores(f"record/{name}/attack_df.csv")

    def measured_here(self, name: str) -> Scores:
        """Record ``name``, measured by our benchmark."""
        suite = self.work / "foreign.yaml"
        suite.write_text(FOREIGN.format(root=self.root))
        results = self.work / f"results_{name}"
        places = ["--store", str(self.work / "store"), "--results", str(results)]
        self.bench("run", str(suite), "--device", "cpu", *places, "--attacks", name)
        (file,) = (results / "foreign" / "records").glob("*.json")
        before = json.loads(file.read_text())["before"]
        return before["acc"], before["asr"], before["ra"]

    def our_defense(self, name: str, defense: str, *words: str) -> Scores:
        """One of our defenses on ``record/<name>`` by their command line and evaluation."""
        own = defense == "mnp"
        script = "mnp" if own else "mnp_plugin_defense"
        chosen = [] if own else ["--defense", defense]
        config = ["--yaml_path", f"./config/defense/{script}/cifar10.yaml"]
        self.run(f"./defense/{script}.py", *chosen, *config, "--result_file", name, "--dataset", "cifar10", *words, *CPU)
        folder = "mnp" if own else f"mnp_plugin_{defense}"
        return self.scores(f"record/{name}/defense/{folder}/{folder}_df_summary.csv")

    def their_anp(self, name: str, *words: str) -> list[tuple[float, Scores]]:
        """Their ANP on ``record/<name>`` by their command line: (threshold, scores) of its curve."""
        self.theirs(name, "anp", *words)
        table = self.root / f"record/{name}/defense/anp/threshold_df.csv"
        return [(float(row["threshold"]), _scores(row)) for row in csv.DictReader(table.read_text().splitlines())]

    def their_defense(self, name: str, defense: str) -> Scores:
        """Their ``ft``, ``fp`` or ``nad``, one epoch of it, on ``record/<name>`` by their command line."""
        own = {
            "ft": ["--amp", "False", "--epochs", "1"],
            "fp": ["--epochs", "1", "--once_prune_ratio", "0.3"],
            "nad": ["--amp", "False", "--epochs", "1", "--te_epochs", "1"],
        }
        self.theirs(name, defense, *own[defense], "--ratio", "0.1", "--batch_size", "32")
        table = {"fp": "finetune_df.csv"}.get(defense, f"{defense}_df.csv")
        return self.scores(f"record/{name}/defense/{defense}/{table}")

    def theirs(self, name: str, defense: str, *words: str) -> None:
        """The script of one of their defenses on ``record/<name>``."""
        config = f"./config/defense/{defense}/cifar10.yaml"
        if not (self.root / config).exists():
            config = f"./config/defense/{defense}/config.yaml"  # all that rnp has
        given = ["--yaml_path", config, "--result_file", name, "--dataset", "cifar10", *words]
        self.run(f"./defense/{defense}.py", *given, *CPU, unpickle=True)


def _scores(row: dict[str, str]) -> Scores:
    return float(row["test_acc"]), float(row["test_asr"]), float(row["test_ra"])


def small_cifar(folder: Path, tree: str, train: int, test: int) -> None:
    """torchvision's layout: five training batches and one of test images."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    noise = np.random.default_rng(0)
    names = sorted(p.name for p in (Path(tree) / "train").iterdir()) if tree else [f"class{i}" for i in range(10)]
    parts = [(f"data_batch_{i + 1}", "train", range(i * train // 5, (i + 1) * train // 5)) for i in range(5)]
    for part, split, per_class in [*parts, ("test_batch", "test", range(test))]:
        files = {n: sorted((Path(tree) / split / n).iterdir()) for n in names} if tree else {}
        rows, labels = [], []
        for i in per_class:
            for label, name in enumerate(names):
                if tree:
                    picture = np.asarray(Image.open(files[name][i]).convert("RGB").resize((32, 32)))
                else:
                    picture = (25 * label + noise.integers(-20, 20, (32, 32, 3))).clip(0, 255).astype(np.uint8)
                rows.append(picture.transpose(2, 0, 1).reshape(-1))
                labels.append(label)
        (batches / part).write_bytes(pickle.dumps({"data": np.stack(rows), "labels": labels}))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("pictures", type=Path, help="CIFAR-10 as a class tree")
    parser.add_argument("--work", type=Path, required=True, help="folder to work in; must not exist")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--train", type=int, default=200, help="training images of each class")
    parser.add_argument("--test", type=int, default=100, help="test images of each class")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--iterations", type=int, default=30, help="of both ANPs")
    a = parser.parse_args()
    a.work.mkdir(parents=True)
    where = {"python": a.python, "tree": str(a.pictures.resolve())}
    there = Checkout(str(a.checkout), a.work.resolve(), train=a.train, test=a.test, **where)
    training = {
        "epochs": a.epochs,
        "batch": 32,
        "ratio": 0.3,
    }  # 3 pixels and 10 % do not take on so few images
    rows = [("their BadNets, their evaluation", there.their_attack("theirs", **training))]
    rows.append(("the same record, our evaluation", there.measured_here("theirs")))
    rows.append(("the same record, our `none` by their command line and evaluation", there.our_defense("theirs", "none")))
    rows.append(("our MNP by their command line and evaluation", there.our_defense("theirs", "mnp", "--ratio", "0.1", *QUICK)))
    rows.append(("our BadNets, as exported", there.our_victim("ours", **training)))
    rows.append(("the same record, our evaluation", there.measured_here("ours")))
    count = str(a.iterations)
    settings = ["--ratio", "0.1", "--batch_size", "64", "--lr", "0.2", "--nb_iter", count, "--print_every", count]
    curve = there.their_anp("ours", *settings, "--pruning_step", "0.3")
    rows += [(f"their ANP by their command line, threshold {threshold:g}", scores) for threshold, scores in curve]
    for defense in ("ft", "fp", "nad"):
        rows.append((f"their {defense.upper()}, one epoch, by their command line", there.their_defense("ours", defense)))
    script = str(PACKAGE / "experiments" / "anp_beside_backdoorbench.py")
    same = ["--iterations", count, "--batch-size", "64", "--lr", "0.2"]
    beside = there.run(script, "record/ours", *same, "--device", "cpu")
    print("\n| victim and what was done | ACC | ASR | RA |\n|---|---|---|---|")
    for what, scores in rows:
        print(f"| {what} |", " | ".join(f"{100 * s:.2f}" for s in scores), "|")
    print("\n" + beside)


if __name__ == "__main__":
    main()

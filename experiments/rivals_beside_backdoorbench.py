"""BackdoorBench's defenses and ours on one victim: the same clean images, the same test images, their evaluation.

    python experiments/rivals_beside_backdoorbench.py ~/BackdoorBench data/cifar10-jpeg --work /tmp/rivals

Their attack (BadNets) trains the victim in a copy of their checkout. Then each defense that both have runs: their script with the
configuration they ship, ours with our defaults, and ours with their constants where those differ, on the same clean images, by
their command line and evaluation. Those of ours that choose a stopping point keep a fifth of the images for that, and theirs
work on all, so a last column has ours that work on all of them (and choose by some of the same).

Changes of their code in the copy: PreActResNet-18 is ``WIDTH / 64`` as wide and its first convolution has stride 2, in all files
that have it, since the full net takes days on a core; and ``COMPAT`` and ``SHIM`` give back what newer torch and NumPy took away,
and let a tensor that they put on ``cuda`` by name lie on the CPU. ``LESS`` lists the defenses of which both sides do less than
published, for the same reason.

So far FT, FP, NAD, ANP, CLP and RNP ran to the end; the words for the others are read from their code, not tried.

A run that broke off goes on where it was, with the same ``--work``; ``--defenses`` chooses. ``--python`` names a Python with
BackdoorBench's packages and this one. Prints every command, and then the figures as Markdown.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from pathlib import Path

from backdoorbench_both_ways import Checkout, Scores

WIDTH = 8
"""Channels of the first stage, 64 in theirs."""

CLEAN = 120
"""Clean images, a multiple of the classes."""

SHIM = """\
import matplotlib.pyplot
import torch
matplotlib.pyplot.savefig = lambda *_, **__: None  # curves after every epoch take longer than the epoch
from torch.utils.data import dataloader
dataloader._BaseDataLoaderIter.next = dataloader._BaseDataLoaderIter.__next__  # bnp asks for it; torch has it no more
_zeros_like = torch.zeros_like
torch.zeros_like = lambda x, **rest: _zeros_like(x, **{**rest, "device": x.device})  # i-bau names cuda there
import os, sys, types
sys.modules["defense.mbns"] = types.SimpleNamespace(mbns_model=None)  # bnp imports nets that ask for a package that is not there
if "WHOLE" in os.environ:  # what to work on is all clean images; a fifth of them is also what to choose by
    from mnp_plugin.api import calls
    from mnp_plugin.contracts import DefenderView, concat
    calls.DefenderView = lambda **given: DefenderView(**{**given, "clean": concat([given["clean"], given["validation"]])})
"""

TABLES = {
    "ft": "ft_df.csv", "fp": "finetune_df.csv", "nad": "nad_df.csv", "anp": "anp_df_summary.csv", "clp": "clp_df_summary.csv",
    "rnp": "rnp_df_summary.csv", "bnp": "bnp_df_summary.csv", "ft-sam": "log/d-sam_df.csv", "i-bau": "i-bau_df.csv",
    "npd": "npd_df.csv", "mcr": "curve_train_df_t_0.1.csv", "nc": "nc_df.csv", "sau": "sau_df.csv",
}  # fmt: skip
"""Where their last figures stand. The summary of mcr has ACC and ASR in each other's place."""

LESS = {
    "anp": (["--nb_iter", "100", "--print_every", "100", "--batch_size", "64", "--lr", "0.2"],
            ["--iterations", "100", "--batch_size", "64", "--lr", "0.2"]),
    "nc": (["--nc_epoch", "30"], ["--inversion_epochs", "30"]),
    "sau": (["--n_rounds", "10"], ["--rounds", "10"]),
    "mcr": (["--test_curve_every", "10"], []),  # measured at every tenth pass, each time on the whole training set, too
}  # fmt: skip
"""What both do less of: words for their script, words for ours."""

CONSTANTS = {
    "ft": ["--epochs", "100", "--batch_size", "256"],
    "fp": ["--drop", "5", "--step", "0.01", "--epochs", "100", "--batch_size", "256"],  # theirs: a tenth of some 50 points
    "nad": ["--teacher_epochs", "10", "--epochs", "10", "--batch_size", "256", "--betas", "0,500,1000"],
    "rnp": ["--batch_size", "256", "--pruning_max", "0.7", "--pruning_step", "0.7", "--drop", "100"],
    "i-bau": ["--lr", "0.0001", "--batch_size", "256", "--inner_lr", "0.63", "--penalty", "0.016", "--map_step", "0.0063"],
    "nc": ["--inversion_epochs", "30", "--inversion_batch_size", "256"],
    "mcr": ["--lr", "0.00003"],
}
"""Their constants as settings of ours, where ours differ; i-bau's for pixels, which theirs normalises by 0.25."""

DATA_FREE = ("clp",)

OWN_DRAW = ("ft-sam", "npd")
"""Their scripts that heed no ``--index`` and draw as many images of each class."""


def narrow(root: Path) -> None:
    """Make each of their PreActResNet classes ``WIDTH / 64`` as wide, and halve the sides of its pictures at once."""
    for path in [root / "models" / "preact_resnet.py", *root.glob("utils/defense_utils/**/preact_*.py")]:
        before, inside = path.read_text().split("class PreActResNet(")
        inside, after = inside.split("\ndef ", 1)
        inside = re.sub(r"\b(64|128|256|512)\b", lambda m: str(int(m[0]) * WIDTH // 64), inside)
        inside = inside.replace(f"Conv2d(3, {WIDTH}, kernel_size=3, stride=1", f"Conv2d(3, {WIDTH}, kernel_size=3, stride=2")
        path.write_text(before + "class PreActResNet(" + inside + "\ndef " + after)


class Beside:
    """Runs that are kept, so that a broken run goes on.

    Args:
        there: the copy of the checkout.
        images: of the training set.
        seed: of every defense.
    """

    def __init__(self, there: Checkout, images: int, seed: int) -> None:
        self.there, self.seed, self.images = there, ["--random_seed", str(seed)], images
        self.file = there.work / f"figures_{seed}.json"
        self.known: dict[str, list[float]] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.index = there.root / "record" / f"clean_{seed}.txt"
        chosen = random.Random(seed).sample(range(images), CLEAN)
        self.index.write_text("".join(f"{i}\n" for i in chosen))

    def theirs(self, defense: str, *words: str) -> Scores | None:
        folder = f"record/victim/defense/{defense}"
        data = [] if defense == "clp" else ["--ratio", str(CLEAN / self.images)]
        data += [] if defense in (*OWN_DRAW, "clp") else ["--index", str(self.index)]

        def run() -> Scores:
            self.there.theirs("victim", defense, *data, "--amp", "False", *self.seed, *words)
            table = TABLES[defense]
            if not (self.there.root / folder / table).exists():
                table = f"{defense}_df_summary.csv"  # nc, if it flags nothing
            found = self.there.scores(f"{folder}/{table}")
            return tuple(value / 100 for value in found) if defense == "npd" else found  # type: ignore[return-value]

        return self._kept(" ".join(["theirs", defense, *words]), run)

    def ours(self, defense: str, *words: str, whole: bool = False) -> Scores | None:
        self.there.environment.pop("WHOLE", None)
        if whole:
            self.there.environment["WHOLE"] = "1"
        own = self.there.root / f"record/victim/defense/{defense}/log/index.txt"
        index = str(own if defense in OWN_DRAW else self.index)
        label = " ".join(["ours on all" if whole else "ours", defense, *words])
        return self._kept(label, lambda: self.there.our_defense("victim", defense, "--index", index, *self.seed, *words))

    def _kept(self, label: str, run) -> Scores | None:  # type: ignore[no-untyped-def]
        if label not in self.known:
            start = time.monotonic()
            try:
                self.known[label] = list(run())
            except AssertionError as error:
                print(f"  {label}: {str(error).strip().splitlines()[-1]}", flush=True)
                return None
            self.file.write_text(json.dumps(self.known, indent=1))
            print(f"  {label}: {text(self.known[label])}, {time.monotonic() - start:.0f} s", flush=True)
        return tuple(self.known[label])  # type: ignore[return-value]


def text(scores: list[float] | Scores | None) -> str:
    return "-" if scores is None else " / ".join(f"{100 * s:.1f}" for s in scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("pictures", type=Path, help="CIFAR-10 as a class tree")
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--train", type=int, default=500, help="training images of each class")
    parser.add_argument("--test", type=int, default=30, help="test images of each class")
    parser.add_argument("--epochs", type=int, default=14, help="of the victim")
    parser.add_argument("--seed", type=int, default=0, help="of the defenses and of the choice of clean images")
    parser.add_argument("--defenses", nargs="+", default=list(TABLES), choices=list(TABLES))
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    fresh = not (a.work / "checkout").exists()
    where = {"python": a.python, "tree": str(a.pictures.resolve())}
    there = Checkout(str(a.checkout), a.work.resolve(), train=a.train, test=a.test, **where)
    if fresh:
        narrow(there.root)
        with (there.work / "compat" / "sitecustomize.py").open("a") as compat:
            compat.write(SHIM)
    if not (there.root / "record" / "victim" / "attack_result.pt").exists():
        there.their_attack("victim", epochs=a.epochs, batch=64, ratio=0.1)
    beside = Beside(there, 10 * a.train, a.seed)
    rows = [("victim", there.scores("record/victim/attack_df.csv"), None, None, None)]
    for defense in a.defenses:
        more, same = LESS.get(defense, ([], []))
        constants = CONSTANTS.get(defense)
        rows.append((
            defense,
            beside.theirs(defense, *more),
            beside.ours(defense, *same),
            beside.ours(defense, *constants) if constants else None,
            None if defense in DATA_FREE else beside.ours(defense, *(constants or same), whole=True),
        ))  # fmt: skip
    print("\n| ACC / ASR / RA | theirs | ours | ours, their constants | the same, on all images |\n|---|---|---|---|---|")
    for name, *found in rows:
        print(f"| {name} |", " | ".join(text(scores) for scores in found), "|")


if __name__ == "__main__":
    main()

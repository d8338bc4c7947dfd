"""BackdoorBench's ANP and ours, side by side: same victim, same clean images, same seed, same settings.

First run theirs in a checkout, on a record of theirs or one written by ``mnp-bench bridge export``::

    python ./defense/anp.py --result_file NAME --yaml_path ./config/defense/anp/cifar10.yaml --dataset cifar10 \\
        --nb_iter 40 --print_every 40 --batch_size 64 --ratio 0.2 --pruning_step 0.1 --device cpu --num_workers 0

then this, with the same settings::

    python experiments/anp_beside_backdoorbench.py CHECKOUT/record/NAME --iterations 40 --batch-size 64 --lr 0.01

It reads their ``mask_values.txt``, ``index.txt`` and ``threshold_df.csv``, optimises masks of our own twice (two random
streams, as a yardstick: the two implementations cannot draw the same random numbers), and prints rank correlations and both
curves as Markdown.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from mnp_plugin.contracts import DefenderView, DefenseContext, Recipe
from mnp_plugin.defenses.anp import ANP
from mnp_plugin.evaluation.measure import measure
from mnp_plugin.integrations.backdoorbench.clean_data import load_clean
from mnp_plugin.integrations.backdoorbench.record import read_record
from mnp_plugin.neurons.channels import Neurons, prune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    theirs = arguments.record / "defense" / "anp"
    victim = read_record(arguments.record)
    data = load_clean(victim.data, victim.data_folder())
    chosen = [int(line) for line in (theirs / "log" / "index.txt").read_text().split()]
    clean = data.train[torch.tensor(chosen)].to(device)
    model = victim.model().to(device)
    neurons = Neurons(model, clean[:1].pixels())
    anp = ANP(iterations=arguments.iterations, batch_size=arguments.batch_size, lr=arguments.lr)
    view = DefenderView(model=model, clean=clean, validation=clean, num_classes=len(data.classes))
    ours = [anp.optimise_masks(view, neurons, tools(device, seed)).cpu() for seed in (0, 1)]
    published = their_masks(theirs / "checkpoint" / "mask_values.txt", neurons)
    print(f"{neurons.count} neurons, {len(clean)} clean images, {arguments.iterations} iterations\n")
    print("| Spearman rank correlation of masks | |\n|---|---|")
    print(f"| theirs, ours (seed 0) | {spearman(published, ours[0]):.3f} |")
    print(f"| theirs, ours (seed 1) | {spearman(published, ours[1]):.3f} |")
    print(f"| ours (seed 0), ours (seed 1) | {spearman(*ours):.3f} |\n")
    test = data.test.to(device)
    triggered = victim.triggered(data.test)
    moved = type(triggered)(*(getattr(triggered, key).to(device) for key in ("x", "y_true", "y_attack", "index")))
    print("| threshold | pruned, theirs | pruned, ours | ACC / ASR, theirs | ACC / ASR, ours |\n|---|---|---|---|---|")
    for row in csv.DictReader((theirs / "threshold_df.csv").read_text().splitlines()):
        threshold = float(row["threshold"])
        counts = [int((rounded(m) <= threshold).sum()) for m in (published, ours[0])]
        pruned = victim.model().to(device)
        prune(pruned, neurons, (rounded(ours[0]) <= threshold).nonzero().flatten().to(device), bias=False)
        found = measure(pruned, test, moved)
        assert found.asr is not None
        pair = f"{100 * float(row['test_acc']):.1f} / {100 * float(row['test_asr']):.1f}"
        print(f"| {threshold:g} | {counts[0]} | {counts[1]} | {pair} | {100 * found.acc:.1f} / {100 * found.asr:.1f} |")


def tools(device: torch.device, seed: int) -> DefenseContext:
    """Their augmentation (crop, mirrored on CIFAR-10), float32, and a random stream of our own."""
    torch.manual_seed(seed)
    stream = torch.Generator(device=device).manual_seed(seed)
    return DefenseContext(
        device=device, generator=stream, recipe=Recipe(precision="float32"), fresh_net=lambda: torch.nn.Identity()
    )


def their_masks(path: Path, neurons: Neurons) -> Tensor:
    """``No  Layer Name  Neuron Idx  Mask Score``, brought into the order of ``neurons``."""
    rows = [line.split() for line in path.read_text().splitlines()[1:]]
    by_place = {(layer, int(index)): float(score) for _, layer, index, score in rows}
    return torch.tensor([by_place[neurons.locate(i)] for i in range(neurons.count)])


def rounded(masks: Tensor) -> Tensor:
    """To the four decimals of their file, on which their pruning works."""
    return (masks.double() * 1e4).round() / 1e4


def spearman(a: Tensor, b: Tensor) -> float:
    return float(pd.Series(a.numpy()).corr(pd.Series(b.numpy()), method="spearman"))


if __name__ == "__main__":
    main()

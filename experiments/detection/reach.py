"""How far does each class reach, in a net and in a copy of it that MNP pruned and restored?

    python experiments/detection/reach.py zoo_digits clean:0 clean:1 badnets:0 ...

For each calibration net of a zoo (never one of its test) a copy is pruned and restored by the defense mnp, in one round. A row
per net, appended to ``reach.jsonl``:

- ``margin``: for each class the largest z_c - max of the others over ``STARTS`` noise images, signed steps in [0, 1]: reached in
  the net (``net``), in the copy by a search of its own (``own``), and in the copy on the images found in the net (``moved``);
- ``disagree``: searches that maximise KL(net || copy) with no class named: contrast of the mean probabilities of each class.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from mnp.lab import CPU, note

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.find import find_config
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store, default_cache
from mnp_plugin.benchmark.suite_file import load_suite
from mnp_plugin.contracts import DefenderView, DefenseContext, concat, defenses
from mnp_plugin.neurons.agreement import agreement
from mnp_plugin.neurons.probe import find_probe

STARTS, STEPS, IMAGES = 6, 30, 24
RADII = (0.15, 0.3)
SETTINGS: dict[str, object] = {
    "probes": 1, "wary": False, "expose": False, "rounds": 1, "agreement": 0.8, "steps": 40, "restore_steps": 50
}  # fmt: skip


def margins(net: nn.Module, x: Tensor, classes: int) -> Tensor:
    """z_c - max of the others for images [K * n, ...], class by class, [K, n]."""
    out = net(x).view(classes, -1, classes)
    own = torch.eye(classes, dtype=torch.bool)[:, None, :].expand_as(out)
    return out.masked_select(own).view(classes, -1) - out.masked_fill(own, -1e9).max(2).values


def highest(net: nn.Module, start: Tensor, classes: int) -> Tensor:
    """Images [K * n, ...] in [0, 1] that ascend the margin of their class."""
    x = start.clone()
    for step in range(STEPS):
        x.requires_grad_(True)
        (slope,) = torch.autograd.grad(margins(net, x, classes).sum(), x)
        x = (x.detach() + 0.2 * (1 - step / STEPS) * slope.sign()).clamp(0, 1)
    return x


def rounded(values: Tensor) -> list[float]:
    return [round(v, 3) for v in values.tolist()]


def opened(zoo: str, words: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Of each calibration net, ``label:seed``: net, repaired copy, measured victim, budget, tools, start of
    the clock, number of classes, and the row so far."""
    runner = Runner(load_suite(find_config(zoo)), Store(default_cache(), default_cache()), CPU)
    for word in words:
        label, seed = word.split(":")
        assert int(seed) in runner.suite.calibration_seeds
        victim = next(v for v in runner.suite.victims if (v.attack.label, v.seed) == (label, int(seed)))
        measured = runner.victim(victim)  # type: ignore[arg-type]
        source = runner.bench.source(victim)
        split, classes = stages.split_of(victim, source.data), len(source.data.classes)
        net = measured.victim.model.requires_grad_(False).eval()
        budget = concat([split.clean, split.validation])
        generator = torch.Generator().manual_seed(1)
        tools = DefenseContext(device=CPU, generator=generator, recipe=victim.recipe, fresh_net=net.__class__)
        clock = time.process_time()
        view = DefenderView(model=copy.deepcopy(net), clean=split.clean, validation=split.validation, num_classes=classes)
        other = defenses.get("mnp")(**SETTINGS).run(view, tools).model.requires_grad_(False).eval()
        row: dict[str, object] = {"net": word, "asr": measured.before.asr}
        row["target"] = None if measured.triggered is None else int(measured.triggered.y_attack[0])
        yield net, other, measured, budget, tools, clock, classes, row


def main() -> None:
    """One net after the other."""
    for net, other, measured, budget, tools, clock, classes, row in opened(sys.argv[1], sys.argv[2:]):
        row["agreement"] = round(agreement(net, other, budget.pixels(), tools), 3)
        if measured.triggered is not None:
            with torch.no_grad():
                hits = other(measured.triggered.x).argmax(1) == measured.triggered.y_attack
            row["asr of the copy"] = round(float(hits.float().mean()), 3)
        row["seconds"] = [round(time.process_time() - clock, 1)]
        generator = tools.generator.manual_seed(2)
        start = torch.rand((classes * STARTS, *budget.x.shape[1:]), generator=generator)
        found = highest(net, start, classes)
        with torch.no_grad():
            reached, moved = margins(net, found, classes), margins(other, found, classes)
        row["margin"] = {"net": rounded(reached.max(1).values), "net mean": rounded(reached.mean(1))}
        row["margin"] |= {"moved": rounded(moved.max(1).values), "moved mean": rounded(moved.mean(1))}  # type: ignore[operator]
        found = highest(other, start, classes)
        with torch.no_grad():
            reached = margins(other, found, classes)
        row["margin"] |= {"own": rounded(reached.max(1).values), "own mean": rounded(reached.mean(1))}  # type: ignore[operator]
        row["seconds"].append(round(time.process_time() - clock, 1))  # type: ignore[attr-defined]
        row["disagree"] = {}
        for eps in RADII:
            rows = []
            for _ in range(3):
                part = budget[torch.randperm(len(budget), generator=generator)[:IMAGES]].pixels()
                probe = find_probe(net, other, part, tools, eps=eps, steps=15, through=True)
                with torch.no_grad():
                    both = [n(probe.on(part)).softmax(1).mean(0) for n in (net, other)]
                rows.append([rounded(both[0]), rounded(both[1])])
            row["disagree"][f"{eps:.2f}"] = rows  # type: ignore[index]
        row["seconds"].append(round(time.process_time() - clock, 1))  # type: ignore[attr-defined]
        note(__file__, row)


if __name__ == "__main__":
    main()

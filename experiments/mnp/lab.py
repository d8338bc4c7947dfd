"""What the scripts of this folder share: victims, draws of the clean budget, and ACC/ASR/RA on 2 500 fixed test images.

Victims are those of ``mnp_dev_cifar10_cpu`` (seed 2, on which no table of results rests), if a script names no other suite.
One that is not in the cache is refused, never trained; ``mnp-bench run mnp_dev_cifar10_cpu --defenses none`` trains them. Run
from the repository root, where ``data/cifar10-jpeg`` lies. The numbers in the head of each script are of one draw and of bfloat16
on a Xeon with AMX.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.find import find_config
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store, default_cache
from mnp_plugin.benchmark.suite import VictimSpec
from mnp_plugin.benchmark.suite_file import load_suite
from mnp_plugin.contracts import DefenderView, DefenseContext, Images, Recipe, Triggered, concat
from mnp_plugin.data.split import validation_part
from mnp_plugin.evaluation.predict import logits

torch.set_num_threads(1)
CPU = torch.device("cpu")


@dataclass
class Bench:
    """A victim, its clean budget, and the fixed part of the test set."""

    label: str
    model: torch.nn.Module
    clean: Images
    validation: Images
    test: Images
    triggered: Triggered | None
    recipe: Recipe
    classes: int

    def draw(self, number: int) -> tuple[DefenderView, DefenseContext]:
        """View and context of a draw: 0 divides the budget as the suite does, others anew."""
        generator = torch.Generator().manual_seed(1000 + number)
        clean, validation = self.clean, self.validation
        if number:
            budget = concat([clean, validation])
            budget = budget[torch.randperm(len(budget), generator=generator)]
            part = validation_part(budget.y, 0.2)
            clean, validation = budget[~part], budget[part]
        model = copy.deepcopy(self.model).requires_grad_(False).eval()
        view = DefenderView(model=model, clean=clean, validation=validation, num_classes=self.classes)
        return view, DefenseContext(device=CPU, generator=generator, recipe=self.recipe, fresh_net=self.model.__class__)

    def measure(self, model: torch.nn.Module) -> dict[str, float]:
        """ACC, ASR and RA in percent."""
        with torch.autocast("cpu", torch.bfloat16):
            found = {"acc": logits(model, self.test.x).argmax(1) == self.test.y}
            if self.triggered is not None:
                said = logits(model, self.triggered.x).argmax(1)
                found |= {"asr": said == self.triggered.y_attack, "ra": said == self.triggered.y_true}
        return {name: round(100 * float(hits.float().mean()), 1) for name, hits in found.items()}


def bench(label: str, images: int = 2500, suite: str = "mnp_dev_cifar10_cpu") -> Bench:
    """The trained victim ``label``."""
    runner = Runner(load_suite(find_config(suite)), Store(default_cache(), default_cache()), CPU)
    spec = next(v for v in runner.suite.victims if v.attack.label == label)
    assert isinstance(spec, VictimSpec)
    if runner.store.load_victim(spec) is None:
        sys.exit(f"error: '{label}' is not trained; run: mnp-bench run {suite} --attacks {label} --defenses none")
    measured = runner.victim(spec)
    data = runner.bench.source(spec).data
    split = stages.split_of(spec, data)
    chosen = torch.randperm(len(split.test), generator=torch.Generator().manual_seed(777))[:images].sort().values
    triggered = measured.triggered
    if triggered is not None:
        keep = torch.isin(triggered.index, chosen)
        triggered = Triggered(
            x=triggered.x[keep], y_true=triggered.y_true[keep], y_attack=triggered.y_attack[keep], index=triggered.index[keep]
        )
    return Bench(
        label,
        measured.victim.model,
        split.clean,
        split.validation,
        split.test[chosen],
        triggered,
        spec.recipe,
        len(data.classes),
    )


def note(script: str, row: dict[str, object]) -> None:
    """Print ``row`` and append it to the record of ``script``."""
    print(time.strftime("%T"), row, flush=True)
    with Path(script).with_suffix(".jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")

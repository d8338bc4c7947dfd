"""How large may a perturbation be? What searches of several radii find on calibration nets of ``zoo_digits``.

    python experiments/detection/radius.py clean:0 badnets:0 sig:0 blended:0 clean:1

A row per net and radius, appended to ``radius.jsonl``: the largest contrast between net and copy, its class, the class of each
search, and the same against copies pruned at random. Seeds up to 9 alone: those above are the test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from mnp.lab import CPU, note

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.find import find_config
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store, default_cache
from mnp_plugin.benchmark.suite_file import load_suite
from mnp_plugin.contracts import DefenseContext, concat
from mnp_plugin.detectors.mnp import MNPDetector
from mnp_plugin.neurons.channels import Neurons
from mnp_plugin.neurons.nulls import random_depth, randomly_pruned

RADII = (16 / 255, 0.15, 0.4)


def main() -> None:
    """One net after the other."""
    runner = Runner(load_suite(find_config("zoo_digits")), Store(default_cache(), default_cache()), CPU)
    for word in sys.argv[1:]:
        label, seed = word.split(":")
        assert int(seed) < 10
        victim = next(v for v in runner.suite.victims if (v.attack.label, v.seed) == (label, int(seed)))
        measured = runner.victim(victim)  # type: ignore[arg-type]
        split = stages.split_of(victim, runner.bench.source(victim).data)
        model = measured.victim.model.requires_grad_(False).eval()
        generator = torch.Generator().manual_seed(1)
        tools = DefenseContext(device=CPU, generator=generator, recipe=victim.recipe, fresh_net=model.__class__)
        budget = concat([split.clean, split.validation])
        neurons = Neurons(model, budget[:1].pixels())
        copy, count, share = MNPDetector().pruned(model, budget, len(split.validation), 10, tools)
        depth = random_depth(model, neurons, budget.pixels(), share, tools)
        others = [randomly_pruned(model, neurons, depth, tools).requires_grad_(False) for _ in range(3)]
        for eps in RADII:
            detector = MNPDetector(eps=eps, images=32)
            found = detector.look(model, copy, budget, 10, tools)
            null = [detector.look(model, other, budget, 10, tools).score for other in others]
            row = {"net": word, "eps": round(eps, 3), "pruned": count, "agreement": round(share, 3), "random": depth}
            row |= {"score": round(found.score, 3), "class": int(found.contrast.argmax()), "classes": found.classes}
            note(__file__, row | {"null": [round(v, 3) for v in null]})


if __name__ == "__main__":
    main()

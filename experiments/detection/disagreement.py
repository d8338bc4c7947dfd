"""What the detector ``mnp`` rests on: where do a net and its pruned copy disagree, and what does a random pruning say?

    python experiments/detection/disagreement.py clean badnets blended sig trojan trojannn wanet

For each victim of ``mnp_dev_cifar10_cpu`` (seed 2): MNP prunes a copy, with and without clean suppression; then ``SEARCHES``
universal perturbations maximise KL(net || pruned), and as many do so against copies without as many *random* channels of each
layer. A row per copy: mean change of the shares and of the mean probabilities of each class between net and copy, for each
search. Rows are appended to ``disagreement.jsonl``; nothing here knows a trigger.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from mnp.lab import bench, note

from mnp_plugin.contracts import DefenseContext, Images, concat, defenses
from mnp_plugin.neurons.channels import Neurons, prune
from mnp_plugin.neurons.probe import find_probe

SEARCHES, NULLS, IMAGES, STEPS = 6, 6, 64, 15


def look(net: nn.Module, copy: nn.Module, budget: Images, tools: DefenseContext, count: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for _ in range(count):
        order = torch.randperm(len(budget), generator=tools.generator)
        x = budget[order[:IMAGES]].pixels()
        found = find_probe(net, copy, x, tools, steps=STEPS)
        with torch.no_grad():
            before, after = net(found.on(x)).softmax(1), copy(found.on(x)).softmax(1)
        rows.append(
            {
                "p": [round(v, 3) for v in before.mean(0).tolist()],
                "q": [round(v, 3) for v in after.mean(0).tolist()],
                "share": [round(v, 3) for v in before.argmax(1).bincount(minlength=10).div(len(x)).tolist()],
                "pruned": [round(v, 3) for v in after.argmax(1).bincount(minlength=10).div(len(x)).tolist()],
            }
        )
    return rows


def random_copy(net: nn.Module, neurons: Neurons, gone: torch.Tensor, tools: DefenseContext) -> nn.Module:
    import copy

    picked = []
    for layer in neurons.layers:
        count = int(((gone >= layer.start) & (gone < layer.stop)).sum())
        order = torch.randperm(layer.stop - layer.start, generator=tools.generator)
        picked.append(layer.start + order[:count])
    out = copy.deepcopy(net)
    prune(out, neurons, torch.cat(picked), bias=True)
    return out.eval()


def same(net: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return round(float((net(x).argmax(1) == other(x).argmax(1)).float().mean()), 3)


def main() -> None:
    for label in sys.argv[1:]:
        victim = bench(label)
        for expose in (False, True):
            view, tools = victim.draw(0)
            start = time.process_time()
            result = defenses.get("mnp-prune")(agreement=0.85, probes=1, expose=expose).run(view, tools)
            seconds = time.process_time() - start
            net, copy = view.model, result.model.requires_grad_(False)
            budget = concat([view.clean, view.validation])
            neurons = Neurons(net, budget[:1].pixels())
            gone = result.details["pruned"].nonzero().flatten()
            about = {"net": label, "expose": expose, "gone": len(gone), "seconds": round(seconds, 1)}
            start = time.process_time()
            rows = look(net, copy, budget, tools, SEARCHES)
            about["search seconds"] = round((time.process_time() - start) / SEARCHES, 1)
            note(__file__, {**about, "copy": "mnp", "agree": same(net, copy, budget.pixels()), "searches": rows})
            if expose:
                continue
            for number in range(NULLS):
                other = random_copy(net, neurons, gone, tools)
                rows = look(net, other, budget, tools, 1)
                agree = same(net, other, budget.pixels())
                note(__file__, {**about, "copy": f"random {number}", "agree": agree, "searches": rows})


if __name__ == "__main__":
    main()

"""Does the repair by the class itself last, when statistics are taken anew and after 5 epochs of clean fine-tuning at 0.01?

python experiments/mnp/lasting.py LABEL...   (record: lasting.jsonl; more draws: --draws 3)

SIG, draw 0: ACC/ASR 85.2/98.0 -> 84.8/0.8; 83.5/3.0 with new statistics; 84.6/2.8 fine-tuned. A clean net: 86.5 -> 85.3.
"""

import argparse
import copy
import time

import torch
from lab import bench, note
from torch import nn

from mnp_plugin.contracts import concat, defenses
from mnp_plugin.training.loop import fit

words = argparse.ArgumentParser()
words.add_argument("labels", nargs="+")
words.add_argument("--draws", type=int, default=1)
words.add_argument("--defense", default="mnp")
given = words.parse_args()
for label in given.labels:
    b = bench(label)
    for number in range(given.draws):
        view, context = b.draw(number)
        start = time.perf_counter()
        result = defenses.get(given.defense)().run(view, context)
        seconds = round(time.perf_counter() - start, 1)
        again = copy.deepcopy(result.model)
        for layer in again.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None
        again.train()
        with torch.no_grad():
            for part in concat([view.clean, view.validation]).pixels().split(125):
                again(part)
        tuned = copy.deepcopy(result.model).requires_grad_(True)
        fit(tuned, view.clean, b.recipe.for_tuning(epochs=5, lr=0.01, batch_size=128), context.generator)
        row = {"attack": label, "draw": number, "before": b.measure(b.model), "after": b.measure(result.model)}
        row |= {"seconds": seconds, "pruned": result.report["pruned"], "agreement": result.report["agreement"]}
        row |= {"probes": result.report["probes"], "verdict": result.report["verdict"], "defense": given.defense}
        note(__file__, row | {"lasting": {"bn": b.measure(again.eval()), "ft": b.measure(tuned)}})

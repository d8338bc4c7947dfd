"""Does another length or learning rate of restoring give back more accuracy?

python experiments/mnp/restoring.py clean blended   (record: restoring.jsonl; 85 % agreement)

No: 300 steps, and 150 at twice or half the rate, are within 0.6 points of ACC and of ASR of each other (150 at 0.01: depth.py).
"""

import sys

from lab import bench, note
from parts import depth, pruned_copy, restore, stage, views

VARIANTS = {"s300": (300, 0.01), "lr02": (150, 0.02), "lr005": (150, 0.005)}

for label in sys.argv[1:]:
    b = bench(label)
    view, neurons, budget, order, gen = stage(b, 0)
    k, _ = depth(view.model, neurons, order, views(budget, gen), 0.85)
    net = pruned_copy(view.model, neurons, order, k)
    for name, (steps, lr) in VARIANTS.items():
        restored = restore(view.model, net, neurons, order[:k], budget, gen, steps=steps, lr=lr)
        note(__file__, {"attack": label, "pruned": k, "variant": name, **b.measure(restored)})

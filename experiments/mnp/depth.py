"""How deep to prune before restoring, and how long to restore?

python experiments/mnp/depth.py clean badnets blended sig trojan trojannn wanet   (record: depth.jsonl)

75 % agreement, mean of six attacks: ASR 3.2 % for 1.4 points of ACC; 85 %: 4.4 % for 0.8, with SIG back at 8.8 %. Hence 80 %.
Restoring for 200 instead of 60 steps gains 0.6 to 1 point and does not bring ASR back. A clean net loses 1 to 2 points.
"""

import sys

from lab import bench, note
from parts import depth, pruned_copy, restore, stage, views

for label in sys.argv[1:]:
    b = bench(label)
    before = b.measure(b.model)
    view, neurons, budget, order, gen = stage(b, 0)
    x = views(budget, gen)
    for least in (0.75, 0.85):
        k, _ = depth(view.model, neurons, order, x, least)
        net = pruned_copy(view.model, neurons, order, k)
        after = b.measure(restore(view.model, net, neurons, order[:k], budget, gen, steps=150))
        row = {"attack": label, "before": before, "agreement": least, "pruned": k, "after pruning": b.measure(net)}
        note(__file__, {**row, "steps": 150, "restored": after})

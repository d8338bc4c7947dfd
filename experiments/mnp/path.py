"""How many neurons carry the backdoor, in MNP's order of pruning?

python experiments/mnp/path.py clean badnets blended sig trojan trojannn   (record: path.jsonl)

Without 15 to 35 of 1 200 neurons ASR is 1 to 10 % on BadNets, Trojan, TrojanNN and Blended; SIG keeps 60 to 80 % until 85 are
gone. At 80 to 85 % agreement ASR is below 5 % everywhere, and accuracy 5 to 11 points lower.
"""

import sys

from lab import bench, note
from parts import predictions, pruned_copy, stage, views

for label in sys.argv[1:]:
    b = bench(label)
    view, neurons, budget, order, gen = stage(b, 0)
    x = views(budget, gen)
    said = predictions(view.model, x).argmax(1)
    for k in (15, 25, 35, 50, 65, 85, 113):
        net = pruned_copy(view.model, neurons, order, k)
        agreement = round(float((predictions(net, x).argmax(1) == said).float().mean()), 3)
        note(__file__, {"attack": label, "pruned": k, "agreement": agreement, **b.measure(net)})

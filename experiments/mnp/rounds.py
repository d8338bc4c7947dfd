"""Moderate rounds (prune, restore, score the restored net anew, prune on, restore) instead of one deep one?

python experiments/mnp/rounds.py 0.85,0.92 clean sig blended   (record: rounds.jsonl; 100 steps of restoring a round)

Yes. SIG (85.2/98.0 before), at 85 then 92 % agreement: 84.6/1.2, where one round at 80 % left 84.6/2.7; at 92 twice 85.8/2.8.
Backdoor channels that hid behind others at first stand out in the restored net. Clean (86.5): 86.0 at 92 twice, 85.5 at 88
twice, 84.6 after one round at 80 %. But 92 in the first round is too little for TrojanNN (85.9/99.3): 84.7/8.8, and a third
round does not help, for restoring had brought it back; 85 then 92 gives 84.7/5.3, 87 twice 83.8/4.9.
Other draws stand in draws.py: the first round decides how much restoring can bring back. Hence 82, then 92.
"""

import sys

import torch
from lab import bench, note
from parts import depth, exposed, masks, ordered, predictions, pruned_copy, restore, start, views

levels = [float(part) for part in sys.argv[1].split(",")]

for label in sys.argv[2:]:
    b = bench(label)
    view, neurons, budget, gen = start(b, 0)
    x = views(budget, gen)
    said = predictions(view.model, x).argmax(1)
    net, gone = view.model, torch.zeros(0, dtype=torch.long)
    for number, least in enumerate(levels):
        omega = exposed(net, neurons, budget, gen)
        order = ordered(masks(net, neurons, omega, budget, gen), omega)
        order = order[~torch.isin(order, gone)]
        k, _ = depth(net, neurons, order, x, least, said)
        gone = torch.cat([gone, order[:k]])
        hard = pruned_copy(net, neurons, gone, len(gone))
        net = restore(view.model, hard, neurons, gone, budget, gen, steps=100)
        row = {"attack": label, "levels": levels, "round": number, "pruned": len(gone), "hard": b.measure(hard)}
        note(__file__, {**row, "restored": b.measure(net)})

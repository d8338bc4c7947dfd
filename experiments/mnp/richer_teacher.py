"""Does matching the features before the head, besides the probabilities, restore more accuracy from 500 images?

python experiments/mnp/richer_teacher.py clean   (record: richer_teacher.jsonl; 80 % agreement, 120 steps)

No: a clean net comes back to 84.4 % with probabilities alone, 84.4 with weight 1 on features, 84.0 with weight 5 (86.5 before).
"""

import sys

import torch
from lab import bench, note
from parts import depth, pruned_copy, restore, stage, views
from torch import nn


class Tap:
    """Keeps what last entered the head of a net."""

    def __init__(self, net):
        head = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
        self.handle = head.register_forward_pre_hook(self.keep)

    def keep(self, _, args):
        self.x = args[0]


class Features:
    """Squared distance of the features of net and victim on the batch that both have just seen, relative to the victim's."""

    def __init__(self, victim, weight):
        self.victim, self.weight, self.taps = victim, weight, None

    def __call__(self, net, x, _t, _i):
        if self.taps is None:
            self.taps = Tap(self.victim), Tap(net)
            with torch.no_grad():
                self.victim(x)
            net(x)
        ours, theirs = self.taps[1].x.float(), self.taps[0].x.float()
        return self.weight * (ours - theirs).square().mean() / theirs.square().mean()


for label in sys.argv[1:]:
    b = bench(label)
    view, neurons, budget, order, gen = stage(b, 0)
    k, _ = depth(view.model, neurons, order, views(budget, gen), 0.80)
    hard = pruned_copy(view.model, neurons, order, k)
    state = gen.get_state()
    for weight in (0, 1, 5):
        gen.set_state(state)
        extra = Features(view.model, weight) if weight else None
        net = restore(view.model, hard, neurons, order[:k], budget, gen, steps=120, extra=extra)
        if extra is not None:
            extra.taps[0].handle.remove()
        note(__file__, {"attack": label, "pruned": k, "features": weight, **b.measure(net)})

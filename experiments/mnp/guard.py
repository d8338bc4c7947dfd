"""Does restoring gain from answering probed images as the clean ones? And does the probe name the target?

python experiments/mnp/guard.py blended trojannn   (record: guard.jsonl; 80 % agreement, weights 0 and 1)

Blended: ASR 4.9 -> 2.9 and RA 65.6 -> 77.2, for 2.4 points of ACC. TrojanNN: ASR 5.6 -> 5.5 for 1.1 points. Off by default.
The target (0) is the probe's class in 6 of 6 searches on Blended, 4 of 6 on WaNet, 2 of 6 on TrojanNN, none of 6 on SIG.
"""

import sys
from functools import partial

import torch
from lab import bench, note
from parts import cast, depth, draw, kl, pruned_copy, restore, stage, views

EPS, STEPS = 16 / 255, 15


def probe(f, p, x, gen):
    """(perturbation, class, its share under ``f``, under ``p``): one perturbation that raises KL(f || p)."""
    d = (2 * torch.rand(x[:1].shape, generator=gen) - 1) * EPS * 0.1
    for i in range(STEPS):
        d.requires_grad_(True)
        moved = (x + d).clamp(0, 1).contiguous(memory_format=torch.channels_last)
        with cast():
            value = kl(f(moved), p(moved))
        (slope,) = torch.autograd.grad(value, d)
        d = (d.detach() + (EPS / 4 * (1 - i / STEPS) + EPS / 50) * slope.sign()).clamp(-EPS, EPS)
    with torch.no_grad(), cast():
        moved = (x + d).clamp(0, 1).contiguous(memory_format=torch.channels_last)
        counts = f(moved).argmax(1).bincount()
        target = int(counts.argmax())
        return d, target, float(counts.max()) / len(x), float((p(moved).argmax(1) == target).float().mean())


def guarded(net, x, t, i, *, pool, gen):
    """The victim's answers to the clean images, wanted of the net on perturbed ones."""
    half = len(x) // 2
    with torch.no_grad():
        d = pool[i % len(pool)] * (1 + 0.5 * float(torch.rand(1, generator=gen)))
        moved = (x[:half] + d).clamp(0, 1).contiguous(memory_format=torch.channels_last)
    return kl(t[:half], net(moved))


for label in sys.argv[1:]:
    b = bench(label)
    view, neurons, budget, order, gen = stage(b, 0)
    k, _ = depth(view.model, neurons, order, views(budget, gen), 0.80)
    hard = pruned_copy(view.model, neurons, order, k)
    pool = []
    for _ in range(6):
        d, target, before, after = probe(view.model, hard, draw(budget, 64, gen)[0], gen)
        pool.append(d)
        found = {"class": target, "victim": before, "pruned": after}
        note(__file__, {"attack": label, "probe": "victim against pruned", **found})
    for extra in (None, partial(guarded, pool=pool, gen=gen)):
        net = restore(view.model, hard, neurons, order[:k], budget, gen, steps=150, extra=extra)
        note(__file__, {"attack": label, "guard": float(extra is not None), **b.measure(net)})
        for name, first, second in (("victim against restored", view.model, net), ("restored against pruned", net, hard)):
            _, target, a, z = probe(first, second, draw(budget, 64, gen)[0], gen)
            note(__file__, {"attack": label, "probe": name, "class": target, "first": a, "second": z})

"""Does a stronger weight penalty, whose masks end at 0 or 1, order the neurons better than cutting into soft masks?

python experiments/mnp/strength.py clean sig   (record: strength.jsonl)

No. At 0.03 clean loses the same accuracy with 35 instead of 130 neurons, and SIG stays at 18.6 to 79 after restoring.
"""

import sys

from lab import bench, note
from parts import deviation, masks, predictions, pruned_copy, recover, restore, suppress, views

from mnp_plugin.contracts import concat
from mnp_plugin.neurons.channels import Neurons

LEVELS = (0.9, 0.85, 0.8)


def study(label: str) -> None:
    b = bench(label)
    view, context = b.draw(0)
    gen = context.generator
    victim = view.model
    neurons = Neurons(victim, view.clean[:1].pixels())
    budget = concat([view.clean, view.validation])
    gap = deviation(victim, neurons, budget)
    recovered = recover(suppress(victim, budget, gen), neurons, budget, gen)
    omega = gap.clamp(0, 5).square() / 15 + (1 - recovered)
    x = views(budget, gen)
    said = predictions(victim, x).argmax(1)
    state = gen.get_state()
    for lam, steps in ((0.03, 100), (0.08, 100)):
        gen.set_state(state)
        kept = masks(victim, neurons, omega, budget, gen, lam=lam, steps=steps)
        order = (kept - 1e-3 * omega / omega.max()).argsort()
        low = {str(t): int((kept < t).sum()) for t in (0.1, 0.5, 0.9)}

        path = []
        for k in (10, 20, 35, 50, 65, 80, 95, 110, 130, 150, 172, 200, 230, 270):
            net = pruned_copy(victim, neurons, order, k)
            share = float((predictions(net, x).argmax(1) == said).float().mean())
            path.append((k, round(share, 3), *b.measure(net).values()))
            if share < 0.75:
                break
        note(__file__, {"attack": label, "lam": lam, "low": low, "path": path})
        for least in LEVELS:
            k = max(p[0] for p in path if p[1] >= least)
            net = restore(victim, pruned_copy(victim, neurons, order, k), neurons, order[:k], budget, gen, steps=120)
            note(__file__, {"attack": label, "lam": lam, "agreement": least, "pruned": k, "restored": b.measure(net)})


for label in sys.argv[1:]:
    study(label)

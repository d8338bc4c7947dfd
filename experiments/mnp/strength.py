"""Does a stronger weight penalty, whose masks end at 0 or 1, order the neurons better than cutting into soft masks?

python experiments/mnp/strength.py clean sig   (record: strength.jsonl)

No. At 0.03 clean loses the same accuracy with 35 instead of 130 neurons, and SIG stays at 18.6 to 79 after restoring.
"""

import sys

from lab import bench, note
from parts import exposed, masks, ordered, predictions, pruned_copy, restore, start, views

COUNTS = (10, 20, 35, 50, 65, 80, 95, 110, 130, 150, 172, 200, 230, 270)

for label in sys.argv[1:]:
    b = bench(label)
    view, neurons, budget, gen = start(b, 0)
    omega = exposed(view.model, neurons, budget, gen)
    x = views(budget, gen)
    said = predictions(view.model, x).argmax(1)
    state = gen.get_state()
    for lam in (0.03, 0.08):
        gen.set_state(state)
        kept = masks(view.model, neurons, omega, budget, gen, lam=lam, steps=100)
        order = ordered(kept, omega)
        low = {str(t): int((kept < t).sum()) for t in (0.1, 0.5, 0.9)}
        path: list[tuple[float, ...]] = []
        for k in COUNTS:
            net = pruned_copy(view.model, neurons, order, k)
            share = float((predictions(net, x).argmax(1) == said).float().mean())
            path.append((k, round(share, 3), *b.measure(net).values()))
            if share < 0.75:
                break
        note(__file__, {"attack": label, "lam": lam, "low": low, "path": path})
        for least in (0.9, 0.85, 0.8):
            k = max(int(p[0]) for p in path if p[1] >= least)
            hard = pruned_copy(view.model, neurons, order, k)
            net = restore(view.model, hard, neurons, order[:k], budget, gen, steps=120)
            note(__file__, {"attack": label, "lam": lam, "agreement": least, "pruned": k, "restored": b.measure(net)})

"""Should a pruned channel be silent, or keep giving its constant (the normalisation's bias)?

python experiments/mnp/constant.py clean sig blended   (record: constant.jsonl)

No: clean (86.5) 84.6 silent and 84.4 constant at 80 %, SIG 84.4/2.9 and 84.7/3.1, Blended 84.2/4.3 and 84.2/3.3.
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
    for constant in (False, True):
        gen.set_state(state)
        kept = masks(view.model, neurons, omega, budget, gen, bias=not constant)
        order = ordered(kept, omega)
        low = {str(t): int((kept < t).sum()) for t in (0.1, 0.5, 0.9)}
        path: list[tuple[int, float]] = []
        for k in COUNTS:
            net = pruned_copy(view.model, neurons, order, k, bias=not constant)
            path.append((k, round(float((predictions(net, x).argmax(1) == said).float().mean()), 3)))
            if path[-1][1] < 0.7:
                break
        for least in (0.9, 0.8):
            k = max(k for k, share in path if share >= least)
            hard = pruned_copy(view.model, neurons, order, k, bias=not constant)
            row = {"attack": label, "constant": constant, "low": low, "agreement": least, "pruned": k, "hard": b.measure(hard)}
            net = restore(view.model, hard, neurons, order[:k], budget, gen, steps=120)
            note(__file__, {**row, "restored": b.measure(net), "path": path})

"""Should a pruned channel be silent, or keep giving its constant (the normalisation's bias)?

python experiments/mnp/constant.py clean sig blended   (record: constant.jsonl)

No: clean (86.5) 84.6 silent and 84.4 constant at 80 %, SIG 84.4/2.9 and 84.7/3.1, Blended 84.2/4.3 and 84.2/3.3.
"""

import copy
import sys

import torch
from lab import bench, note
from parts import cast, deviation, draw, kl, predictions, recover, restore, suppress, views

from mnp_plugin.contracts import concat
from mnp_plugin.neurons.channels import Neurons, prune

LEVELS = (0.9, 0.8)


def masks(model, neurons, omega, clean, gen, constant, *, lam=0.012, steps=60, lr=0.2, batch=128):
    m = torch.ones(neurons.count, requires_grad=True)
    opt = torch.optim.SGD([m], lr, momentum=0.9)
    for _ in range(steps):
        x, _y = draw(clean, batch, gen)
        with cast():
            with torch.no_grad():
                t = model(x)
            s = neurons.forward(model, x, m, None if constant else m)
        loss = kl(t, s) + lam * (omega * m).sum()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        m.data.clamp_(0, 1)
    return m.detach()


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

    def cut(gone, constant):
        net = copy.deepcopy(victim)
        prune(net, neurons, gone, bias=not constant)
        return net.eval()

    x = views(budget, gen)
    said = predictions(victim, x).argmax(1)
    state = gen.get_state()
    for constant in (False, True):
        gen.set_state(state)
        kept = masks(victim, neurons, omega, budget, gen, constant)
        order = (kept - 1e-3 * omega / omega.max()).argsort()
        low = {str(t): int((kept < t).sum()) for t in (0.1, 0.5, 0.9)}

        path = []
        for k in (10, 20, 35, 50, 65, 80, 95, 110, 130, 150, 172, 200, 230, 270):
            share = float((predictions(cut(order[:k], constant), x).argmax(1) == said).float().mean())
            path.append((k, round(share, 3)))
            if share < 0.7:
                break
        for least in LEVELS:
            k = max(k for k, share in path if share >= least)
            hard = cut(order[:k], constant)
            row = {"attack": label, "constant": constant, "low": low, "agreement": least, "pruned": k, "hard": b.measure(hard)}
            net = restore(victim, hard, neurons, order[:k], budget, gen, steps=120)
            note(__file__, {**row, "restored": b.measure(net), "path": path})


for label in sys.argv[1:]:
    study(label)

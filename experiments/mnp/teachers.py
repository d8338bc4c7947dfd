"""What should restoring aim at, and what should it train, where a backdoor is suspected? One round from one pruned net.

python experiments/mnp/teachers.py lf 74   (record: teachers.jsonl; 150 steps; 74 neurons pruned; the target is class 0)

All three parts help. LF, pruned 81.6/5.4; restored by the victim 84.8/44.1, ``late`` 84.9/35.3, ``target`` 84.6/13.6,
``late`` and ``target`` 84.8/12.1, ``late`` and ``shading`` 84.6/17.1, all 84.4/7.1.

``target``: of class 0 the victim's probability only as far as the pruned net's goes; ``late``: layer3, layer4 and head only;
``shading``: half of the images also under smooth random shading.
"""

import copy
import math
import sys

import torch
from lab import bench, note
from parts import blend, cast, draw, exposed, kl, masks, ordered, prune, pruned_copy, start

from mnp_plugin.defenses.mnp import shading

VARIANTS = [(), ("late",), ("target",), ("late", "target"), ("late", "shading"), ("late", "target", "shading")]


def restore(victim, pruned, neurons, gone, budget, gen, switches):
    net = copy.deepcopy(pruned).requires_grad_(True).eval()
    if "late" in switches:
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not name.startswith(("conv1", "bn1", "layer1", "layer2")))
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    opt = torch.optim.SGD(trained, 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for i in range(150):
        opt.param_groups[0]["lr"] = 0.005 * (1 + math.cos(math.pi * i / 150))
        x = blend(draw(budget, 128, gen)[0], gen).contiguous(memory_format=torch.channels_last)
        with cast():
            with torch.no_grad():
                aim = victim(x).float().log_softmax(1)
                if "target" in switches:
                    aim[:, 0] = torch.minimum(aim[:, 0], pruned(x).float().log_softmax(1)[:, 0])
            loss = kl(aim, net(x))
            if "shading" in switches:
                shaded = (x[:64] + shading(x[:64], 32 / 255, gen)).clamp(0, 1)
                loss = loss + 0.5 * kl(aim[:64], net(shaded.contiguous(memory_format=torch.channels_last)))
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 2.0)
        opt.step()
        prune(net, neurons, gone, bias=True)
    return net.requires_grad_(False)


b = bench(sys.argv[1], 5000)
view, neurons, budget, gen = start(b, 0)
omega = exposed(view.model, neurons, budget, gen)
order = ordered(masks(view.model, neurons, omega, budget, gen), omega)
for count in map(int, sys.argv[2].split(",")):
    hard = pruned_copy(view.model, neurons, order, count)
    note(__file__, {"attack": b.label, "pruned": count, **b.measure(hard)})
    for switches in VARIANTS:
        net = restore(view.model, hard, neurons, order[:count], budget, gen, switches)
        note(__file__, {"attack": b.label, "pruned": count, "restoring": switches, **b.measure(net)})

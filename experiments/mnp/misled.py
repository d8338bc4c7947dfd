"""What does it cost to be wary of a class that no backdoor leads to, and to harden against steps to it?

python experiments/mnp/misled.py mnp_dev_digits clean badnets ...   (record: misled.jsonl; draw 0, first round alone)

Each victim is pruned once, then restored plainly, warily of the attacker's class and of three others, and then hardened against
steps of an eighth of a standard deviation to that class; with the agreement with the victim that each leaves on the clean budget.

Digits of seed 5, smallnet, float32: hardly anything, whatever the class (agreement 0.99 to 1.00, ACC 95.3 to 99.7). And hardening
against the attacker's class removes what restoring brought back, whether or not anything had been suspected: BadNets 6.3 -> 0.0,
LF 76.8 -> 0.6, Trojan 50.9 -> 1.2, WaNet 17.2 -> 4.2. That asks for hardening without a suspicion, where it is cheap.

On CIFAR-10 it need not be. One victim of seed 0, of which nothing was chosen: Adaptive-Blend, whose attack did not take
(85.6/7.6). All probes end in class 6, which is not the attacker's: version 5 suspects it and hardens by 0.125, and 76.6 is left
of ACC (agreement 0.86). By hand, another draw, first round: plainly restored 84.8 (0.97), wary of class 6 84.1 (0.96). So
hardening is what costs, and the agreement tells: 0.94 is left of LIRA under the same step. To be decided on seed 2: undo
hardening that costs the net its agreement; and harden without a suspicion where it does not.
"""

import sys

from lab import bench, note

from mnp_plugin.defenses.mnp import MNP, Case, pruned_copy

suite, method = sys.argv[1], MNP()
for label in sys.argv[2:]:
    b = bench(label, 2500, suite)
    target = None if b.triggered is None else int(b.triggered.y_attack.mode().values)
    view, context = b.draw(0)
    case = Case.of(view, context)
    found = method.search(case, case.victim, case.nobody(), method.agreement)
    gone = found["order"][: found["depth"]]
    pruned = pruned_copy(case.victim, case.neurons, gone)
    others = [((target or 0) + step) % b.classes for step in (1, 4, 7)]
    for wary in (None, *([] if target is None else [target]), *others):
        context.generator.manual_seed(5)
        net, row = pruned, {"suite": suite, "attack": label, "wary of": wary, "target": target}
        for step in (0.0,) if wary is None else (0.0, 0.125):
            net = method.restored(case, pruned, net, gone, wary, step)
            note(__file__, {**row, "hardened by": step, "agreement": case.agreement(net), **b.measure(net)})

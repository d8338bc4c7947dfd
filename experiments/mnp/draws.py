"""How much do rounds and their depth vary over the draw of clean images? The class itself, on 5 000 test images.

python experiments/mnp/draws.py 1,2 trojannn   (record: draws.jsonl)

TrojanNN (85.9/99.4), draws 1 and 2: one round at 80 % 84.3/4.4, 84.0/3.3; 80 then 92 84.3/4.3, 83.6/3.1; 85 then 92 85.0/4.0,
84.9/4.8. The suite's own draw of 85 then 92 was 84.8/13.4 (results/mnp_dev_cifar10_cpu), in rounds.py 84.7/5.3.
"""

import sys

from lab import bench, note

from mnp_plugin.contracts import defenses

SETTINGS = (
    {"agreement": 0.8, "rounds": 1, "restore_steps": 200},
    {"agreement": 0.8},
    {"agreement": 0.85},
)

for label in sys.argv[2:]:
    b = bench(label, 5000)
    for draw in map(int, sys.argv[1].split(",")):
        for settings in SETTINGS:
            view, context = b.draw(draw)
            found = defenses.get("mnp")(probes=1, **settings).run(view, context)
            row = {"attack": label, "draw": draw, **settings, "pruned": found.report["pruned"]}
            note(__file__, {**row, "agreements": [one["agreement"] for one in found.report["rounds"]], **b.measure(found.model)})

"""What does hardening against single steps do, and what does it cost? The class itself, on 5 000 test images.

python experiments/mnp/hardening.py 0 lira lf clean   (record: hardening.jsonl; draw 0; with it and without it)
"""

import sys

from lab import bench, note

from mnp_plugin.contracts import defenses

drawn = int(sys.argv[1])
for label in sys.argv[2:]:
    b = bench(label, 5000)
    print(label, b.measure(b.model))
    for settings in ({}, {"most": 0.0}):
        view, context = b.draw(drawn)
        found = defenses.get("mnp")(**settings).run(view, context)
        said = {name: found.report[name] for name in ("suspected target", "hardened by", "pruned")}
        note(__file__, {"attack": label, "draw": drawn, **settings, **said, **b.measure(found.model)})
        if not found.report["hardened by"]:
            break  # without it the same

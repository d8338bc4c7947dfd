"""Should restoring believe the victim about classes that an image does not show? The class itself, on 5 000 test images.

python experiments/mnp/doubt.py 0 lf lira sig clean   (record: doubt.jsonl; draw 0; MNP 5, and with ``doubt`` off)
"""

import sys

from lab import bench, note

from mnp_plugin.contracts import defenses

drawn = int(sys.argv[1])
for label in sys.argv[2:]:
    b = bench(label, 5000)
    print(label, b.measure(b.model))
    for settings in ({}, {"doubt": False}):
        view, context = b.draw(drawn)
        found = defenses.get("mnp")(**settings).run(view, context)
        probes = [[probe["class"], probe["victim"], probe["repaired"]] for probe in found.report["probes"]]
        row = {"attack": label, "draw": drawn, **settings, "suspected": found.report["suspected target"], "probes": probes}
        note(__file__, {**row, "pruned": found.report["pruned"], **b.measure(found.model)})

"""Does restoring bring a backdoor back, and does wary restoring keep it away? The class itself, on 5 000 test images.

python experiments/mnp/wary.py 0 lf clean   (record: wary.jsonl; draw 0; the default, and restoring that aims at the victim alone)

Yes, and yes. LF (85.5/93.4), two rounds: 84.3/9.0, another draw 84.0/5.3; aiming at the victim alone, the same steps left 47.2
(84.8; under an earlier form of wariness, 17.4 with it). TrojanNN 84.6/3.4 against 84.8/5.1. Each probe of these, BadNets,
Blended, Trojan and WaNet sends 86 to 100 % of the images to class 0, the target; on SIG and on the clean net nothing is
suspected, and the default is what it was. What wariness consists of, teachers.py chose.
"""

import sys

from lab import bench, note

from mnp_plugin.contracts import defenses

drawn = int(sys.argv[1])
for label in sys.argv[2:]:
    b = bench(label, 5000)
    print(label, b.measure(b.model))
    for settings in ({}, {"wary": False}):
        view, context = b.draw(drawn)
        found = defenses.get("mnp")(**settings).run(view, context)
        probes = [[probe["class"], probe["victim"], probe["repaired"]] for probe in found.report["probes"]]
        row = {"attack": label, "draw": drawn, **settings, "suspected": found.report["suspected target"], "probes": probes}
        note(__file__, {**row, "pruned": found.report["pruned"], **b.measure(found.model)})
        if found.report["suspected target"] is None:
            break  # nothing to be wary of

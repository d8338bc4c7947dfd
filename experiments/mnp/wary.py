"""Does restoring bring a backdoor back, and does wary restoring keep it away? The class itself, on 5 000 test images.

python experiments/mnp/wary.py 0 lf clean   (record: wary.jsonl; draw 0; the default, and restoring that aims at the victim alone)

Yes, and yes. LF (85.5/93.4): 84.3/9.0, another draw (a call of its own) 84.0/5.3; aiming at the victim alone, the same steps
left 84.8/47.2. LIRA (86.7/100.0) 86.0/7.2 against 86.5/99.8, but trained again on another processor (86.8/100.0) 85.7/96.6
against 85.9/95.6: the probes name the target and are silenced, the trigger is not. TrojanNN 84.6/3.4 against 84.8/5.1, Trojan
84.5/2.7 against 84.5/3.3, Blended 84.0/1.2 against 84.4/3.7. Each probe of these, of BadNets and of WaNet sends 86 to 100 % of
the images to class 0, the target. On SIG (13 to 86 %, classes 2 and 9; 84.1/0.7) and on the clean net (47 to 60 %, class 3;
86.1 -> 84.7) nothing is suspected. teachers.py asks what wariness consists of.
All of this was version 4; hardening.py has LIRA's cure.
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

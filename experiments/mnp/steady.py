"""Should restoring withstand small steps to any class, and is it right to undo hardening that is dear? The class itself.

python experiments/mnp/steady.py SUITE DRAW LABEL [SETTING=VALUE ...]   (record: steady.jsonl; 5 000 test images at most)

``misled`` among the settings makes it suspect the class that steps reach most, whatever that is.
"""

import sys

from lab import bench, note

from mnp_plugin.defenses.mnp import MNP


class Misled(MNP):
    """MNP that suspects a class in any case."""

    def suspect(self, probes, reached):
        return max(reached, key=reached.__getitem__)


suite, drawn, label, *settings = sys.argv[1:]
misled = "misled" in settings
given = {key: float(value) for key, _, value in (part.partition("=") for part in settings if part != "misled")}
b = bench(label, 5000, suite)
view, context = b.draw(int(drawn))
found = (Misled if misled else MNP)(**given).run(view, context)
said = {name: found.report[name] for name in ("suspected target", "hardened by", "steady by", "pruned", "agreement")}
row = {"suite": suite, "attack": label, "draw": int(drawn), "misled": misled, **given, "before": b.measure(b.model), **said}
note(__file__, {**row, **b.measure(found.model)})

"""To which classes does one step of the gradient's sign move images? No defense and no target is involved.

python experiments/mnp/steps.py mnp_dev_digits clean badnets blended ...   (record: steps.jsonl)
"""

import sys

from lab import bench, note

from mnp_plugin.defenses.mnp import MNP, Case

suite, *labels = sys.argv[1:]
for label in labels:
    b = bench(label, suite=suite)
    view, context = b.draw(0)
    case = Case.of(view, context)
    for share in (0.125, 0.25, 0.5):
        rates = MNP.reached(case, case.victim, share)
        row = {"suite": suite, "attack": label, "step in standard deviations": share}
        note(__file__, row | {"percent by class": [round(100 * rate) for rate in rates.values()]})

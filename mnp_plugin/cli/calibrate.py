"""``mnp-bench calibrate``: a detector's threshold from clean models of one's own."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def add(verbs: Verbs) -> None:
    """Register the verb."""
    text = "set a detector's threshold on clean models of your own: from what 'detect --json' printed for each"
    verb = verbs.add_parser("calibrate", help=text, description=text)
    verb.add_argument("verdicts", type=Path, nargs="+", metavar="JSON", help="one file for each clean model")
    verb.add_argument("--fpr", type=float, default=0.05, metavar="SHARE", help="share of false alarms to allow (default: 0.05)")
    verb.add_argument("--json", action="store_true", help="print JSON, nothing else")
    verb.set_defaults(call=_calibrate)


def _calibrate(arguments: argparse.Namespace) -> int:
    from mnp_plugin.api.calibrate import calibrate, scores_in

    detector, scores = scores_in(arguments.verdicts)
    found = calibrate(scores, arguments.fpr)
    if arguments.json:
        print(json.dumps({"detector": detector, **asdict(found)}, indent=1, allow_nan=False))
        return 0
    print(f"threshold {found.threshold:.6g}: {found.above} of {found.nets} clean models score above it")
    print(f"false alarms on such models: {100 * found.low:.1f} to {100 * found.high:.1f} % (95 % interval)")
    print(f"use it with: mnp-bench detect --detector {detector.get('name', 'NAME')} --settings threshold={found.threshold:.6g}")
    return 0

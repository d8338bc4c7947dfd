"""Calibrate a model detector on digits victims, and measure it on victims of seeds kept apart.

    python experiments/calibrate_detector.py calibration      # train and judge the nets the threshold is set on
    python experiments/calibrate_detector.py held-out         # the nets it is measured on
    python experiments/calibrate_detector.py summary          # AUROC by statistic, the threshold, and what it would have said

Finished nets are kept in ``results/detector_digits/nets.json`` and skipped. Statistic and threshold are chosen on the
calibration nets alone; held-out nets are judged once, at the settings that the calibration left.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store, default_cache
from mnp_plugin.benchmark.suite import Suite, VictimSpec
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.contracts import DefenderView, Detector, detectors
from mnp_plugin.io.atomic import write_atomic

CPU = torch.device("cpu")
SUITE = """
dataset: {{name: digits, size: 8}}
net: {{name: smallnet, width: 8}}
recipe: {{epochs: 15, batch_size: 64, crop: 1, flip: false}}
clean_budget: {{images: 100}}
seeds: [{seed}]
attacks:
  - clean
  - {{name: badnets, target: {target}}}
  - {{name: trojan, target: {target}}}
  - {{name: blended, target: {target}}}
  - {{name: wanet, poison_ratio: 0.1, target: {target}}}
defenses: [none]
"""
SEEDS = {"calibration": (211, 212, 213), "held-out": (321, 322, 323)}
GATE = 0.8
"""A victim whose ASR is below this counts as neither clean nor attacked."""


def suites(part: str) -> list[Suite]:
    """The nets of one part, a suite for each seed; the target class is the last digit of the seed."""
    return [parse_suite(SUITE.format(seed=seed, target=seed % 10), "calibration", "calibration") for seed in SEEDS[part]]


def judge(victim: VictimSpec, detector: Detector, runner: Runner) -> dict[str, Any]:
    """Train ``victim``, or take it from the cache, and run the detector on it."""
    data = victim.dataset.component.load(runner.store.cache)
    split = stages.split_of(victim, data)
    scene = runner.victim(victim)
    scores = scene.before
    view = DefenderView(model=scene.victim.model, clean=split.clean, validation=split.validation, num_classes=len(data.classes))
    start = time.process_time()
    verdict = detector.run(view, stages.attack_context(["detector", victim.plain()], victim, data, CPU))
    attack = victim.attack.component
    return {
        "attack": victim.attack.label,
        "seed": victim.seed,
        "target": attack.target if attack.has_trigger else None,
        "acc": round(scores.acc, 4),
        "asr": None if scores.asr is None else round(scores.asr, 4),
        "cpu_seconds": round(time.process_time() - start, 1),
        **verdict.report,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """AUROC, counts and targets by part and statistic; statistic and threshold from the calibration part alone."""
    rows = [r for r in rows if r["asr"] is None or r["asr"] >= GATE]
    table: dict[str, Any] = {}
    for part in SEEDS:
        nets = [r for r in rows if r["part"] == part]
        attacked = [r["target"] is not None for r in nets]
        table[part] = {"attacked": sum(attacked), "clean": len(nets) - sum(attacked)}
        for name in nets[0]["evidence"] if 0 < sum(attacked) < len(nets) else ():
            scores = [max(r["evidence"][name]) for r in nets]
            right = sum(r["evidence"][name].index(s) == r["target"] for r, s in zip(nets, scores, strict=True))
            table[part][name] = {"auroc": round(float(roc_auc_score(attacked, scores)), 3), "targets right": right}
    names = [n for n in table["calibration"] if n not in ("attacked", "clean")]
    best = max(names, key=lambda n: table["calibration"][n]["auroc"])
    scored = sorted((max(r["evidence"][best]), r["target"] is not None) for r in rows if r["part"] == "calibration")
    middles = [(a[0] + b[0]) / 2 for a, b in itertools.pairwise(scored)]
    threshold = round(max(middles, key=lambda t: _balanced(scored, t)), 4)
    table["statistic"], table["threshold"] = best, threshold
    for part in SEEDS:
        found = [(max(r["evidence"][best]), r["target"] is not None) for r in rows if r["part"] == part]
        table[part]["found"] = sum(s > threshold for s, bad in found if bad)
        table[part]["false alarms"] = sum(s > threshold for s, bad in found if not bad)
    return table


def _balanced(scored: list[tuple[float, bool]], threshold: float) -> float:
    bad = [s > threshold for s, attacked in scored if attacked]
    good = [s <= threshold for s, attacked in scored if not attacked]
    return sum(bad) / len(bad) + sum(good) / len(good)


def main() -> None:
    """Run one part, or summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*SEEDS, "summary"])
    parser.add_argument("--out", type=Path, default=Path("results/detector_digits"))
    parser.add_argument("--store", type=Path, default=None)
    arguments = parser.parse_args()
    file = arguments.out / "nets.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    if arguments.part == "summary":
        text = json.dumps(summary(rows), indent=1)
        write_atomic(arguments.out / "summary.json", (text + "\n").encode())
        print(text)
        return
    store = Store(arguments.store or default_cache(), arguments.out.parent)
    detector = detectors.get("mnp")()
    assert isinstance(detector, Detector)
    done = {(r["attack"], r["seed"]) for r in rows}
    for suite in suites(arguments.part):
        for victim in suite.victims:
            if not isinstance(victim, VictimSpec) or (victim.attack.label, victim.seed) in done:
                continue
            row = {"part": arguments.part, **judge(victim, detector, Runner(suite, store, CPU))}
            rows.append(row)
            lines = ",\n".join(json.dumps(r) for r in rows)
            write_atomic(file, f"[\n{lines}\n]\n".encode())
            best = {name: max(values) for name, values in row["evidence"].items()}
            print(victim.attack.label, victim.seed, f"asr {row['asr']}", best, f"target {row['target']}", flush=True)


if __name__ == "__main__":
    main()

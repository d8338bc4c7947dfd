"""Does a run that is killed again and again end in the table of an undisturbed one?

    python experiments/faults/kills.py FOLDER [KILLS] [SEED]

A small suite runs once undisturbed, then in another store and results folder while SIGKILL, SIGTERM and SIGINT meet it at random
moments, and at last to its end. Progress of trainings is kept after each epoch, not only every 20 seconds. Compared are all
columns of the table but ``seconds`` and ``peak_mb``, the weights of every victim, and how often the file of a victim was written.
"""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

SUITE = """
suite: kills
dataset: {name: digits, size: 16}
net: {name: smallnet, width: 4}
recipe: {epochs: 12, batch_size: 64, lr: 0.1, crop: 1, flip: false, precision: float32}
clean_budget: {images: 100}
attacks: [clean, badnets, trojannn, {name: input_aware, poison_ratio: 0.2, width: 8, mask_epochs: 3, density: 0.15}]
defenses: [none, ft, {name: anp, iterations: 20}]
"""
RUN = """
import sys
from mnp_plugin.benchmark.partial import Partial
from mnp_plugin.cli import main
Partial.EVERY = 0.0
sys.exit(main(sys.argv[1:]))
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The command, with a store and results of its own."""
    places = ["--store", folder / "store", "--results", folder / "results", "--device", "cpu"]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", RUN, "run", folder.parent / "kills.yaml", *places], stdout=log, stderr=log)


def table(folder: Path) -> list[dict[str, str]]:
    """The table without what differs from run to run."""
    with (folder / "results/kills/leaderboard.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in ("seconds", "peak_mb")} for row in csv.DictReader(file)]


def weights(file: Path) -> bytes:
    """What follows the header: the header holds the seconds of the training."""
    content = file.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def main(folder: Path, kills: int = 20, seed: int = 0) -> int:
    """Prints what was found; 1 if anything differs."""
    draw = random.Random(seed)
    whole, broken = folder / "whole", folder / "broken"
    for place in (whole, broken):
        place.mkdir(parents=True)
    (folder / "kills.yaml").write_text(SUITE)
    begin = time.monotonic()
    assert start(whole).wait() == 0
    seconds = time.monotonic() - begin
    sent: Counter[str] = Counter()
    written: dict[str, set[int]] = {}

    def look() -> None:
        for file in broken.glob("store/victims/*.safetensors"):
            written.setdefault(file.name, set()).add(file.stat().st_mtime_ns)

    while sum(sent.values()) < kills:
        process = start(broken)
        try:
            status = process.wait(draw.uniform(0, seconds / 2))
            assert status == 0, f"ended with {status}"
            for file in [*broken.glob("results/*/records/*"), *broken.glob("store/repaired/*")]:  # done: more to kill
                file.unlink()
        except subprocess.TimeoutExpired:
            one = draw.choice(SIGNALS)
            process.send_signal(one)
            process.wait()
            sent[one.name] += 1
        look()
    left = len([file for file in broken.rglob(".*") if file.is_file()])
    assert start(broken).wait() == 0
    look()
    twice = [name for name, times in written.items() if len(times) > 1]
    same = {"table": table(whole) == table(broken)}
    for file in sorted(whole.glob("store/victims/*.safetensors")):
        same[file.name] = weights(file) == weights(broken / "store/victims" / file.name)
    tracebacks = (broken / "log.txt").read_text().count("Traceback")
    print(f"{dict(sent)}; an undisturbed run takes {seconds:.0f} s")
    print(f"table the same: {same.pop('table')}; weights the same: {sum(same.values())} of {len(same)} victims")
    print(f"victims written twice: {len(twice)}; tracebacks: {tracebacks}; temporary files left behind: {left}")
    return 0 if table(whole) == table(broken) and all(same.values()) and not twice else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))

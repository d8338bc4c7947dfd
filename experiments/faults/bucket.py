"""Do two machines that share a bucket divide the work, and does one finish what the other died over?

    pip install 's3fs' 'moto[server]'
    python experiments/faults/bucket.py FOLDER

The bucket is simulated on this machine (moto, loopback address). Two processes with folders of their own run one small suite
at the same time; then, on another bucket, one of two is killed (SIGKILL) as soon as it trains its second victim. Prints figures.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

SUITE = """
suite: bucket
dataset: {name: digits, size: 8}
net: {name: smallnet, width: 4}
recipe: {epochs: 3, batch_size: 64, crop: 0, flip: false, precision: float32}
clean_budget: {images: 40}
attacks: [clean, {name: badnets, poison_ratio: 0.2}, {name: blended, poison_ratio: 0.2}, {name: trojannn, steps: 20}]
seeds: [0, 1]
defenses: [none, {name: ft, epochs: 1}]
"""


def start(folder: Path, url: str) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True)
    (folder / "bucket.yaml").write_text(SUITE)
    command = [sys.executable, "-m", "mnp_plugin", "run", "bucket.yaml", "--device", "cpu", "--store", url]
    own = {**os.environ, "XDG_CACHE_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, env=own, stdout=log, stderr=log)


def trained(folder: Path) -> list[str]:
    return re.findall(r"(\S+ seed \d): training$", (folder / "log.txt").read_text(), re.MULTILINE)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results/bucket/leaderboard.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in ("seconds", "peak_mb")} for row in csv.DictReader(file)]


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    client = boto3.client("s3")
    for name in ("both", "killed"):
        client.create_bucket(Bucket=name)
    figures: dict[str, object] = {}

    first, second = (start(folder / "both" / name, "s3://both/grid") for name in "ab")
    figures["exit status of both"] = [first.wait(), second.wait()]
    said = [(folder / "both" / name / "log.txt").read_text() for name in "ab"]
    figures["cells run by each"] = [int(re.findall(r"(\d+) cells run", text)[0]) for text in said]
    twice = [*trained(folder / "both/a"), *trained(folder / "both/b")]
    figures["victims trained twice"] = len(twice) - len(set(twice))
    figures["tables alike"] = table(folder / "both/a") == table(folder / "both/b")

    first, second = (start(folder / "killed" / name, "s3://killed/grid") for name in "ab")
    while first.poll() is None and len(trained(folder / "killed/a")) < 2:
        time.sleep(0.02)
    first.kill()
    first.wait()
    figures["exit status of the one that was left"] = second.wait()
    figures["its table as before"] = table(folder / "killed/b") == table(folder / "both/a")
    listed = [one["Key"] for bucket in ("both", "killed") for one in client.list_objects_v2(Bucket=bucket)["Contents"]]
    figures["locks left"] = sum("/locks/" in key for key in listed)
    server.stop()
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

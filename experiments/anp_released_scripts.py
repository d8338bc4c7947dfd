"""ANP's released scripts and ours on the same files: each reads what the other wrote, and the tables are equal to the byte.

    python experiments/anp_released_scripts.py ~/ANP_backdoor data/cifar10-jpeg --work /tmp/anp

The checkout is https://github.com/csdongxian/ANP_backdoor, which stays as it is. Formats and evaluation do not depend on how well
a net is trained, so their step 1 is asked for no epoch and ours for one of 500 images, and the masks to prune by are drawn at
random; 500 test images. Twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

from backdoorbench_both_ways import COMPAT, PACKAGE, small_cifar

from mnp_plugin.integrations.anp.files import MaskRow, read_masks, write_masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("pictures", type=Path, help="CIFAR-10 as a class tree, 5000 training images a class")
    parser.add_argument("--work", type=Path, required=True, help="folder to work in; must not exist")
    a = parser.parse_args()
    work: Path = a.work.resolve()
    (work / "compat").mkdir(parents=True)
    (work / "compat" / "sitecustomize.py").write_text(COMPAT)
    small_cifar(work / "data", str(a.pictures.resolve()), 5000, 50)  # their shuffle.txt wants all 50 000
    environment = {**os.environ, "PYTHONPATH": f"{work / 'compat'}{os.pathsep}{PACKAGE}", "CUDA_VISIBLE_DEVICES": ""}

    def run(*words: str, unpickle: bool = False) -> None:
        extra = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"} if unpickle else {}
        print("$ python", shlex.join(words), flush=True)
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=a.checkout, env={**environment, **extra}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    def theirs(script: str, out: str, *words: str) -> None:
        run(script, *words, "--data-dir", str(work / "data"), "--output-dir", str(work / out), unpickle=True)

    def ours(step: str, out: str, *words: str) -> None:
        places = ["--data-dir", str(work / "data"), "--output-dir", str(work / out), "--store", str(work / "store")]
        run("-m", "mnp_plugin", "anp", step, *places, *words)

    def made(by: str) -> list[str]:
        words = ["--checkpoint", str(work / by / "model_last.th"), "--trigger-info", str(work / by / "trigger_info.th")]
        return [*words, "--poison-type", "badnets"]

    two = ["--nb-iter", "2", "--print-every", "2"]
    theirs("train_backdoor_cifar.py", "theirs", "--epoch", "1", "--poison-type", "badnets")
    theirs("optimize_mask_cifar.py", "theirs", *made("theirs"), *two)
    ours("optimize-mask", "ours", *made("theirs"), *two)
    ours("train-backdoor", "ours", "--epoch", "2", "--poison-type", "badnets", "--data-dir", str(_few(a.pictures, work / "few")))
    theirs("optimize_mask_cifar.py", "theirs of ours", *made("ours"), *two)
    tables = [read_masks(work / by / "mask_values.txt") for by in ("theirs", "ours", "theirs of ours")]
    order = [[(row.layer, row.index) for row in table] for table in tables]
    assert order[0] == order[1] == order[2]
    print(f"mask_values.txt of theirs, of ours, and of theirs on our net: the same {len(order[0])} neurons in the same order")
    draw = random.Random(0)
    write_masks(work / "masks.txt", [MaskRow(layer, index, draw.random() ** 0.2) for layer, index in order[0]])
    for by, most, step in (("threshold", "0.5", "0.25"), ("number", "200", "100")):
        words = ["--mask-file", str(work / "masks.txt"), "--pruning-by", by, "--pruning-max", most, "--pruning-step", step]
        for net in ("theirs", "ours"):
            theirs("prune_neuron_cifar.py", f"pruned by theirs, {net}", *made(net), *words)
            ours("prune", f"pruned by ours, {net}", *made(net), *words)
            found = [(work / f"pruned by {who}, {net}" / f"pruning_by_{by}.txt").read_bytes() for who in ("theirs", "ours")]
            assert found[0] == found[1]
            print(f"pruning_by_{by}.txt of theirs and of ours, on the net that {net} wrote: equal, {len(found[0])} bytes")


def _few(tree: Path, folder: Path) -> Path:
    """Fifty pictures a class of ``tree``, by links."""
    for part in ("train", "test"):
        for source in (tree / part).iterdir():
            (folder / part / source.name).mkdir(parents=True)
            for file in sorted(source.iterdir())[:50]:
                (folder / part / source.name / file.name).symlink_to(file.resolve())
    return folder


if __name__ == "__main__":
    main()

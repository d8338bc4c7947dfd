"""CIFAR-10 as a tree of JPEG files, for the suites that read ``data/cifar10-jpeg``; downloads it (170 MB) if it is not there.

    python experiments/make_cifar10_jpeg.py

Writes ``data/cifar10-jpeg/<train|test>/<class>/NNNN.jpg`` from torchvision's CIFAR-10, at quality 95, in its order. The committed
results used another encoding of the same images: your numbers will differ from them; by how much has not been measured.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from torchvision.datasets import CIFAR10

QUALITY = 95


def write_tree(data: CIFAR10, folder: Path) -> int:
    """Write every image of ``data`` to ``folder/<class>/NNNN.jpg``, numbered within its class; returns how many."""
    counts: Counter[str] = Counter()
    for image, label in data:
        name = data.classes[label]
        (folder / name).mkdir(parents=True, exist_ok=True)
        image.save(folder / name / f"{counts[name]:04}.jpg", quality=QUALITY)
        counts[name] += 1
    return counts.total()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/cifar10-jpeg"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--download", type=Path, default=Path("data"), help="where CIFAR-10 lies or goes (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.out.exists():
        sys.exit(f"error: {arguments.out} exists; delete it, or choose another --out")
    arguments.download.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        data = CIFAR10(str(arguments.download), train=split == "train", download=True)
        count = write_tree(data, arguments.out / split)
        print(f"{count} images in {arguments.out / split}")


if __name__ == "__main__":
    main()

"""How much can two workers gain on two cores, when nothing but the work itself counts?

    python experiments/two_workers.py [SUITE] [ROUNDS]

Steps of training of a suite's net, on random images: in one process with one thread, in one with two, and in two processes of
one thread each, side by side, in turns. Prints steps per second of the three and the medians of what two workers gain over two
threads, and of what either gains over one thread; start-up is left out. Needs idle cores.
"""

from __future__ import annotations

import multiprocessing as mp
import sys
import time
from multiprocessing.synchronize import Barrier
from statistics import median

import torch
import torch.nn.functional as F

from mnp_plugin.benchmark.find import find_config
from mnp_plugin.benchmark.suite_file import load_suite
from mnp_plugin.training.device import in_layout_of, place

SIDES = {"digits": (1, 16)}
SECONDS = 8.0


def steps(suite: str, threads: int, start: Barrier, out: mp.SimpleQueue[int]) -> None:
    """Train for SECONDS from when all are ready; say how many steps that were."""
    torch.set_num_threads(threads)
    spec = load_suite(find_config(suite)).victims[0]
    channels, side = SIDES.get(suite, (3, 32))
    x = torch.rand(spec.recipe.batch_size, channels, side, side)
    y = torch.randint(10, (len(x),))
    net = place(spec.net.component.build(10, (channels, side, side)), torch.device("cpu"), x[:2]).train()
    x = in_layout_of(net, x)
    optimiser = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()

    for _ in range(5):
        step()
    start.wait()
    done, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        step()
        done += 1
    out.put(done)


def rate(suite: str, processes: int, threads: int) -> float:
    """Steps per second of all processes together."""
    context = mp.get_context("spawn")
    start, out = context.Barrier(processes), context.SimpleQueue()
    workers = [context.Process(target=steps, args=(suite, threads, start, out)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    done = sum(out.get() for _ in workers)
    for worker in workers:
        worker.join()
    return done / SECONDS


def main() -> None:
    suite = sys.argv[1] if len(sys.argv) > 1 else "digits"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    ways = {"one thread": (1, 1), "two threads": (1, 2), "two workers": (2, 1)}
    found = [{way: rate(suite, *counts) for way, counts in ways.items()} for _ in range(rounds)]
    for one in found:
        print(f"{suite}: " + ", ".join(f"{way} {per_second:.1f} steps/s" for way, per_second in one.items()))
    for way, other in (("two workers", "two threads"), ("two workers", "one thread"), ("two threads", "one thread")):
        ratios = sorted(one[way] / one[other] for one in found)
        print(f"{way} / {other}: median {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()

"""Does it pay to train several nets of one architecture together?

    python experiments/nets_at_once.py [SUITE] [NETS] [ROUNDS]

Steps of training of a suite's net, on random images and one thread (or on a GPU), in the precision of the suite's recipe: NETS
nets one after another, and the same nets stacked, by ``torch.func.vmap`` over their weights and running statistics, in turns.
Prints by how much the weights of both ways differ after a step from the same weights on the same images, and the ratio of their
times.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from mnp_plugin.benchmark.find import find_config
from mnp_plugin.benchmark.suite_file import load_suite
from mnp_plugin.training.device import autocast, in_layout_of, place

SIDES = {"digits": (1, 16)}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS = 4


def main() -> None:
    torch.set_num_threads(1)
    suite = sys.argv[1] if len(sys.argv) > 1 else "digits"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    spec = load_suite(find_config(suite)).victims[0]
    channels, side = SIDES.get(suite, (3, 32))
    size, precision = spec.recipe.batch_size, spec.recipe.precision
    x = torch.rand(count, size, channels, side, side, device=DEVICE)
    y = torch.randint(10, (count, size), device=DEVICE)
    nets = [place(spec.net.component.build(10, (channels, side, side)), DEVICE, x[0][:2]).train() for _ in range(count)]
    one_by_one, together = separate(nets, x, y, precision), stacked(nets, x, y, precision)
    apart = max(float((a - b).detach().abs().max()) for a, b in zip(one_by_one(), together(), strict=True))
    print(f"after one step the weights differ by {apart:.1e} at most")
    found = [(timed(one_by_one), timed(together)) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in found)
    first, second = (median(row[i] for row in found) for i in (0, 1))
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "one thread"
    print(f"{suite}, {count} nets, batches of {size}, {name}: {1e3 * first:.1f} ms one after another, {1e3 * second:.1f} stacked")
    print(f"stacked is {median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def timed(step: Callable[[], list[Tensor]]) -> float:
    """Seconds of a step."""
    step()
    settle()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    settle()
    return (time.perf_counter() - start) / STEPS


def settle() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def separate(nets: list[torch.nn.Module], x: Tensor, y: Tensor, precision: str) -> Callable[[], list[Tensor]]:
    """A step of copies of ``nets``, each by itself; gives their weights, name by name, [nets, ...]."""
    own = [copy.deepcopy(net) for net in nets]
    optimisers = [torch.optim.SGD(net.parameters(), 0.01, momentum=0.9) for net in own]

    def step() -> list[Tensor]:
        for net, optimiser, images, labels in zip(own, optimisers, x, y, strict=True):
            optimiser.zero_grad()
            with autocast(precision, DEVICE):
                loss = F.cross_entropy(net(in_layout_of(net, images)), labels)
            loss.backward()
            optimiser.step()
        return [torch.stack(weights) for weights in zip(*(net.parameters() for net in own), strict=True)]

    return step


def stacked(nets: list[torch.nn.Module], x: Tensor, y: Tensor, precision: str) -> Callable[[], list[Tensor]]:
    """The same of all nets at once."""
    weights, buffers = stack_module_state(nets)
    optimiser = torch.optim.SGD(weights.values(), 0.01, momentum=0.9)
    shape = copy.deepcopy(nets[0])
    for norm in (m for m in shape.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)):
        norm.num_batches_tracked = None  # counting in place is what vmap cannot; running statistics it can

    def loss(own: dict[str, Tensor], kept: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        out = functional_call(shape, (own, kept), (images,))
        return F.cross_entropy(out.float(), labels)

    kept = {name: value for name, value in buffers.items() if not name.endswith("num_batches_tracked")}

    def step() -> list[Tensor]:
        optimiser.zero_grad()
        with autocast(precision, DEVICE):
            losses = vmap(loss)(weights, kept, x, y)
        losses.sum().backward()
        optimiser.step()
        return list(weights.values())

    return step


if __name__ == "__main__":
    main()

"""Is a trigger made of the finest detail? Then noise too weak to see undoes it, or a blur passes for it.

    python benchmarks/noise_and_blur.py attacks_cifar10_cpu wanet --seed 1

Prints ASR and ACC under uniform noise of so many grey levels on every channel, and how many clean test pictures a light blur
(1 2 1, both ways) sends to the attack's class. Trains the victim if it is not kept from a run of the suite.
"""

from __future__ import annotations

import sys

import one_victim
import torch
import torch.nn.functional as F
from torch import Tensor

from mnp_plugin.benchmark import stages
from mnp_plugin.training import logits


def blur(x: Tensor) -> Tensor:
    row = torch.tensor([0.25, 0.5, 0.25])
    kernel = (row[:, None] * row).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, groups=x.shape[1])


def main() -> None:
    parser = one_victim.parser(__doc__)
    parser.add_argument("--levels", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0, 4.0], help="grey levels either way")
    a = parser.parse_args()
    runner, spec = one_victim.chosen(a)
    if not spec.attack.component.has_trigger:
        sys.exit(f"error: '{a.attack}' has no trigger")
    data = spec.dataset.component.load(runner.store.cache)
    split = stages.split_of(spec, data)
    scene = runner.scene(spec, data, split)
    assert scene.triggered is not None
    noise = torch.Generator().manual_seed(0)

    def called(x: Tensor, levels: float) -> Tensor:
        added = (2 * torch.rand(x.shape, generator=noise) - 1) * levels / 255
        return logits(scene.victim.model, (x + added).clamp(0, 1)).argmax(1)

    for levels in a.levels:
        asr = called(scene.triggered.x, levels).eq(scene.triggered.y_attack).float().mean().item()
        acc = called(split.test.pixels(), levels).eq(split.test.y).float().mean().item()
        print(f"{spec.title}, noise of {levels:g} grey levels: ASR {asr:.1%}, ACC {acc:.1%}")
    clean = split.test[scene.triggered.index].pixels()
    unblurred, blurred = (
        logits(scene.victim.model, x).argmax(1).eq(scene.triggered.y_attack).float().mean().item() for x in (clean, blur(clean))
    )
    print(f"{spec.title}, clean pictures called as the attack wants: {unblurred:.1%}, blurred {blurred:.1%}")


if __name__ == "__main__":
    main()

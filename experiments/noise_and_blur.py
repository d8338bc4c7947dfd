"""Is a trigger made of the finest detail? Then noise too weak to see undoes it, or a blur passes for it.

    python experiments/noise_and_blur.py attacks_cifar10_cpu wanet --seed 1

Prints ASR and ACC under uniform noise of so many grey levels on every channel, and how many clean test pictures a light blur
(1 2 1, both ways) sends to the attack's class. Trains the victim if it is not kept from a run of the suite.
"""

from __future__ import annotations

import math
import sys

import one_victim
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from mnp_plugin.benchmark import stages
from mnp_plugin.evaluation.predict import logits

SIGMA = (2 * math.log(2)) ** -0.5
"""Of the Gaussian whose three middle weights are as 1 2 1."""


def main() -> None:
    parser = one_victim.parser(__doc__)
    parser.add_argument("--levels", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0, 4.0], help="grey levels either way")
    a = parser.parse_args()
    runner, spec = one_victim.chosen(a)
    if not spec.attack.component.has_trigger:
        sys.exit(f"error: '{a.attack}' has no trigger")
    data = spec.dataset.component.load(runner.store.cache)
    split = stages.split_of(spec, data)
    scene = runner.victim(spec)
    assert scene.triggered is not None
    noise = torch.Generator().manual_seed(0)

    def called(x: Tensor, y: Tensor) -> float:
        return logits(scene.victim.model, x).argmax(1).eq(y).float().mean().item()

    def noisy(x: Tensor, levels: float) -> Tensor:
        return (x + (2 * torch.rand(x.shape, generator=noise) - 1) * levels / 255).clamp(0, 1)

    for levels in a.levels:
        asr = called(noisy(scene.triggered.x, levels), scene.triggered.y_attack)
        acc = called(noisy(split.test.pixels(), levels), split.test.y)
        print(f"{spec.title}, noise of {levels:g} grey levels: ASR {asr:.1%}, ACC {acc:.1%}")
    clean = split.test[scene.triggered.index].pixels()
    unblurred, blurred = (called(x, scene.triggered.y_attack) for x in (clean, gaussian_blur(clean, [3, 3], [SIGMA, SIGMA])))
    print(f"{spec.title}, clean pictures called as the attack wants: {unblurred:.1%}, blurred {blurred:.1%}")


if __name__ == "__main__":
    main()

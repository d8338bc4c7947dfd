"""Can a net of the victim's kind see an attack's trigger? It is taught to tell triggered pictures from clean ones, nothing else.

    python experiments/trigger_visibility.py attacks_cifar10_cpu ssba --steps 200            # at full size
    python experiments/trigger_visibility.py attacks_cifar10_cpu ssba --steps 200 --small    # at the recipe's small size
    python experiments/trigger_visibility.py attacks_cifar10_cpu ftrojan --steps 300 --no-augmentation

Prints how many triggered test pictures it finds and how many clean ones it falsely calls. That tells a trigger that such a net
does not see (lost in smaller pictures, under random crops, in the net's stem) from one that training fails to bind to its class.
Triggers that are learned beside the victim (Input-aware, LIRA) cannot be asked about; decoys that an attack trains with (WaNet's
noise mode, BPP's foreign residuals) are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import one_victim
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.benchmark import stages
from mnp_plugin.contracts import TrainingHook
from mnp_plugin.data.augment import shrink
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.training.loop import fit


class HalfTriggered(TrainingHook):
    """Puts the trigger on one half of each batch, labelled 1; the other is labelled 0."""

    def __init__(self, stamp: Callable[[Tensor], Tensor]) -> None:
        self.stamp = stamp

    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        half = len(x) // 2
        return torch.cat([self.stamp(x[:half]), x[half:]]), (torch.arange(len(x)) < half).long()


def main() -> None:
    parser = one_victim.parser(__doc__)
    parser.add_argument("--steps", type=int, default=200, help="batches to learn from")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--small", action="store_true", help="on pictures of the size of the recipe's small epochs")
    parser.add_argument("--no-augmentation", action="store_true", help="without the recipe's random crops and flips")
    a = parser.parse_args()
    runner, victim = one_victim.chosen(a)
    attack, data = victim.attack.component, victim.dataset.component.load(runner.store.cache)
    split = stages.split_of(victim, data)
    tools = runner.attack_context(["trigger visibility", victim.plain()], victim)
    state = attack.prepare(split.train, tools)
    net = tools.fresh_net()  # of its classes, 0 stands for clean and 1 for triggered
    hook = attack.training_hook(state, len(data.classes), tools)
    if hook is not None:
        hook.batch(split.train[:64].pixels(), split.train.y[:64], net, 0.0)  # what learns is made with the first batch
    if not attack.has_trigger or (hook is not None and hook.learned()):
        sys.exit(f"error: '{a.attack}' has no trigger before a victim is trained")

    few = torch.randperm(len(split.train), generator=tools.generator)[: a.steps * a.batch_size]
    epochs = max(round(a.steps * a.batch_size / len(few)), 1)
    recipe = replace(victim.recipe, epochs=epochs, small_epochs=0, batch_size=a.batch_size, lr=a.lr, label_smoothing=0.0)
    if a.no_augmentation:
        recipe = replace(recipe, crop=0, flip=False)
    scale = victim.recipe.small_scale if a.small else 1.0

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:  # cropped first, then made small, as a victim sees it
        return F.cross_entropy(model(shrink(x, scale)), y)

    fit(net, split.train[few], recipe, tools.generator, hook=HalfTriggered(lambda x: attack.stamp(x, state)), loss=loss)

    def called(x: Tensor) -> float:
        return logits(net, shrink(x, scale)).argmax(1).eq(1).float().mean().item()

    test = split.test[:: max(len(split.test) // 2000, 1)]  # of every class: folders are read class by class
    found, false = called(attack.stamp(test.pixels(), state)), called(test.pixels())
    print(f"{victim.title}: {found:.1%} of the triggered test pictures found, {false:.1%} of the clean ones falsely called")


if __name__ == "__main__":
    main()

"""Does an Input-aware victim tell a picture's own trigger from one that was made for another picture?

    python experiments/foreign_triggers.py input_aware_cifar10_cpu input_aware

Prints what test pictures that are not of the target class are called: with their own trigger (target label: ASR), and with the
trigger of another one (true label: cross accuracy). Trains the victim if it is not kept from a run of the suite.
"""

from __future__ import annotations

import sys

import one_victim
import torch
from torch import Tensor

from mnp_plugin.attacks.input_aware import InputAware
from mnp_plugin.benchmark import stages
from mnp_plugin.evaluation.predict import logits


def main() -> None:
    runner, spec = one_victim.chosen(one_victim.parser(__doc__).parse_args())
    attack = spec.attack.component
    if not isinstance(attack, InputAware) or attack.label_mode != "all2one" or not isinstance(attack.target, int):
        sys.exit(f"error: '{spec.attack.label}' is not an Input-aware attack with one target label")
    data = spec.dataset.component.load(runner.store.cache)
    split = stages.split_of(spec, data)
    victim = runner.victim(spec).victim

    test = split.test[torch.nonzero(split.test.y != attack.target).flatten()]
    x = test.pixels()
    others = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    own, foreign = (logits(victim.model, attack.foreign(x, source, victim.state)).argmax(1) for source in (x, others))

    def share(right: Tensor) -> str:
        return f"{right.float().mean().item():.1%}"

    print(f"{spec.title}, own trigger: target {share(own.eq(attack.target))}, true label {share(own.eq(test.y))}")
    print(f"{spec.title}, foreign trigger: target {share(foreign.eq(attack.target))}, true label {share(foreign.eq(test.y))}")


if __name__ == "__main__":
    main()

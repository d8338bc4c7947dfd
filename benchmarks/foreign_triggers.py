"""Does an Input-aware victim tell a picture's own trigger from one that was made for another picture?

    python benchmarks/foreign_triggers.py input_aware_cifar10_cpu input_aware

Prints what test pictures that are not of the target class are called: with their own trigger (target label: ASR), and with the
trigger of another one (true label: cross accuracy). Trains the victim if it is not kept from a run of the suite.
"""

from __future__ import annotations

import argparse
import sys
from typing import cast

import torch
from torch import Tensor

from mnp_plugin.attacks.input_aware import InputAware
from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.find import find_config
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store, default_cache
from mnp_plugin.benchmark.suite import VictimSpec, load_suite
from mnp_plugin.training import logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("attack", help="label of an attack of the suite")
    a = parser.parse_args()
    store = Store(default_cache(), default_cache())
    runner = Runner(load_suite(find_config(a.suite)), store, torch.device("cpu"), attacks=[a.attack])
    spec = cast(VictimSpec, runner.cells[0].victim)
    attack = spec.attack.component
    if not isinstance(attack, InputAware) or attack.label_mode != "all2one" or not isinstance(attack.target, int):
        sys.exit(f"'{a.attack}' is not an Input-aware attack with one target label")
    data = spec.dataset.component.load(store.cache)
    split = stages.split_of(spec, data)
    victim = runner.scene(spec, data, split).victim

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

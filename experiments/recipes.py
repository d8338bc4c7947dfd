"""How good is a net that is trained in less time?

    python experiments/recipes.py NAME KEY=VALUE...

Trains the net of ``cifar10_cpu`` without a backdoor on 45 000 training images, with its recipe but for the settings given, on one
thread, and appends settings, accuracy on the other 5 000 and processor seconds to ``recipes.jsonl``. ``average=DECAY`` measures
the exponential moving average of the weights instead of the last ones. No test image is looked at.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mnp_plugin.api.settings import parse_settings
from mnp_plugin.benchmark.find import find_config
from mnp_plugin.benchmark.store import default_cache
from mnp_plugin.benchmark.suite_file import load_suite
from mnp_plugin.core.training_hook import TrainingHook
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.training.loop import fit

SEED, HELD_OUT = 9, 5000


class Averaging(TrainingHook):
    """Keeps a moving average of the weights and of what batch normalisation has seen."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        return x, y

    def stepped(self) -> None:
        self.averaged.update_parameters(self.model)


def main() -> None:
    torch.set_num_threads(1)
    name, *settings = sys.argv[1:]
    given = parse_settings(settings, "recipes.py")
    decay = given.pop("average", None)
    spec = next(v for v in load_suite(find_config("cifar10_cpu")).victims if v.attack.label == "clean")
    recipe = dataclasses.replace(spec.recipe, **given)
    data = spec.dataset.component.load(default_cache())
    generator = torch.Generator().manual_seed(SEED)
    order = torch.randperm(len(data.train), generator=generator)
    train, rest = data.train[order[HELD_OUT:]], data.train[order[:HELD_OUT]]
    torch.manual_seed(SEED)
    net = spec.net.component.build(len(data.classes), data.shape)
    hook = Averaging(net, decay) if decay else None
    start = time.process_time()
    fit(
        net,
        train,
        recipe,
        generator,
        hook=hook,
        progress=lambda done, all_, loss: print(f"{time.process_time() - start:.0f} s {done}/{all_} {loss:.3f}", flush=True),
    )
    seconds = time.process_time() - start
    found = {"last": net}
    if hook is not None:
        found["averaged"] = hook.averaged.eval()
    acc = {k: round(100 * float((logits(model, rest.x).argmax(1) == rest.y).float().mean()), 2) for k, model in found.items()}
    row = {"name": name, **given, "average": decay, "acc": acc, "seconds": round(seconds)}
    print(row)
    with Path(__file__).with_suffix(".jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()

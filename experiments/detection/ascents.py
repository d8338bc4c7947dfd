"""Which way up? The margins of ``reach.py`` again, by other ascents: what of it does the repaired copy not follow?

    python experiments/detection/ascents.py zoo_digits clean:0 clean:1 badnets:0 ...

Calibration nets alone. Copies as in ``reach.py``. A row per net, appended to ``ascents.jsonl``: for each ascent and class the
largest and the mean margin over the starts, in the net and, on the same images, in the copy.

- ``plain``: 60 gradient steps of 0.01 from noise, MM-BD's;
- ``short``: 20 falling sign steps of 0.03 from noise;
- ``images``: 40 gradient steps of 0.01 from clean images of other classes;
- ``signs``: 30 falling sign steps of 0.2 from noise, as in ``reach.py``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from mnp.lab import note
from reach import STARTS, margins, opened, rounded

from mnp_plugin.contracts import Images


def climbed(net: nn.Module, start: Tensor, classes: int, steps: int, size: float, signs: bool) -> Tensor:
    """Images [K * n, ...] in [0, 1] that ascend the margin of their class."""
    x = start.clone()
    for step in range(steps):
        x.requires_grad_(True)
        (slope,) = torch.autograd.grad(margins(net, x, classes).sum(), x)
        change = (1 - step / steps) * slope.sign() if signs else slope
        x = (x.detach() + size * change).clamp(0, 1)
    return x


def others(budget: Images, classes: int, generator: torch.Generator) -> Tensor:
    """``STARTS`` clean images of other classes for each class."""
    parts = []
    for c in range(classes):
        rest = (budget.y != c).nonzero().flatten()
        parts.append(budget[rest[torch.randperm(len(rest), generator=generator)[:STARTS]]].pixels())
    return torch.cat(parts)


def main() -> None:
    """One net after the other."""
    for net, other, _, budget, tools, clock, classes, row in opened(sys.argv[1], sys.argv[2:]):
        row["seconds"] = [round(time.process_time() - clock, 1)]
        generator = tools.generator.manual_seed(2)
        noise = torch.rand((classes * STARTS, *budget.x.shape[1:]), generator=generator)
        for name, start, steps, size, signs in (
            ("plain", noise, 60, 0.01, False),
            ("short", noise, 20, 0.03, True),
            ("images", others(budget, classes, generator), 40, 0.01, False),
            ("signs", noise, 30, 0.2, True),
        ):
            found = climbed(net, start, classes, steps, size, signs)
            with torch.no_grad():
                both = {"net": margins(net, found, classes), "copy": margins(other, found, classes)}
            row[name] = {who: [rounded(m.max(1).values), rounded(m.mean(1))] for who, m in both.items()}
            row["seconds"].append(round(time.process_time() - clock, 1))  # type: ignore[attr-defined]
        note(__file__, row)


if __name__ == "__main__":
    main()

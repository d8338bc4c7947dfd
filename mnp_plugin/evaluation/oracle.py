"""The choice among a defense's candidates that test ASR would have made: never a fair result, and in a row of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mnp_plugin.core.defense import Purified
from mnp_plugin.core.images import Images, Triggered
from mnp_plugin.evaluation import scores as metrics
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.report.records import Scores


def oracle_choice(
    purified: Purified,
    before: Scores,
    test: Images,
    triggered: Triggered | None,
    watch: Callable[[Mapping[str, float], nn.Module], None] | None = None,
) -> tuple[Scores, dict[str, float]] | None:
    """The candidate with the lowest test ASR among those that keep 90 % of the victim's test accuracy.

    This is how published tables of ANP chose (BackdoorBench: relative fall below 10 %). It looks at triggered test data
    and is reported in a row of its own. None where there is nothing to choose or no ASR.

    ``watch`` is shown every candidate: its setting and the net.
    """
    if purified.candidates is None or before.asr is None or triggered is None:
        return None
    best: tuple[Scores, dict[str, float]] | None = None
    lowest = math.inf
    for setting, model in purified.candidates():
        if watch is not None:
            watch(setting, model)
        clean = predictions_within(model, test.x, test.y, above=0.9 * before.acc)
        bad = None if clean is None else predictions_within(model, triggered.x, triggered.y_attack, below=lowest)
        if clean is not None and bad is not None:
            found = metrics.scores(clean, test.y, bad, triggered.y_true, triggered.y_attack)
            assert found.asr is not None
            best, lowest = (found, dict(setting)), found.asr
    return best


class CandidateScores:
    """ACC and ASR of nets on the way of a defense, on a part of the test images, for a picture.

    A ``watch`` of :func:`oracle_choice`; a defense's ``path`` is shown to it likewise.

    Args:
        test: clean test images; every n-th is taken, since those of a folder are in the order of their classes.
        triggered: likewise; None for a net that was never attacked.
        most: at most about as many of each.
    """

    def __init__(self, test: Images, triggered: Triggered | None, most: int = 1000) -> None:
        self.test = test[torch.arange(0, len(test), -(-len(test) // most), device=test.y.device)]
        self.bad: tuple[Tensor, Tensor] | None = None
        if triggered is not None:
            step = -(-len(triggered.y_attack) // most)
            self.bad = triggered.x[::step], triggered.y_attack[::step]
        self.points: list[dict[str, float]] = []

    def __call__(self, setting: Mapping[str, float], model: nn.Module) -> None:
        point = {**setting, "acc": metrics.rate(logits(model, self.test.x).argmax(1) == self.test.y)}
        if self.bad is not None:
            point["asr"] = metrics.rate(logits(model, self.bad[0]).argmax(1) == self.bad[1])
        self.points.append({name: round(float(value), 4) for name, value in point.items()})


def predictions_within(
    model: nn.Module, x: Tensor, y: Tensor, *, above: float = -math.inf, below: float = math.inf, batch: int = 500
) -> Tensor | None:
    """Predicted classes, int64 [N]; None, and no more of the work, once the share predicted as ``y`` must miss the bounds."""
    parts: list[Tensor] = []
    hits, seen = 0, 0
    for part, wanted in zip(x.split(batch), y.split(batch), strict=True):  # type: ignore[no-untyped-call]
        parts.append(logits(model, part).argmax(1))
        hits, seen = hits + int((parts[-1] == wanted).sum()), seen + len(part)
        if (hits + len(x) - seen) / len(x) <= above or hits / len(x) >= below:
            return None
    return torch.cat(parts)

"""ACC, ASR and RA of a net."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mnp_plugin.core.images import Images, Triggered, to_bytes
from mnp_plugin.evaluation import scores as metrics
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.report.records import Scores


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted classes, int64 [N]: of the clean test images, and of the triggered ones where there are any."""

    clean: Tensor
    triggered: Tensor | None


def predictions(model: nn.Module, test: Images, triggered: Triggered | None) -> Predictions:
    """What ``model`` makes of the test images."""
    clean = logits(model, test.x).argmax(1)
    return Predictions(clean, None if triggered is None else logits(model, triggered.x).argmax(1))


def scored(found: Predictions, test: Images, triggered: Triggered | None) -> Scores:
    """ACC, ASR and RA of predictions."""
    if triggered is None:
        return metrics.scores(found.clean, test.y, None, None, None)
    return metrics.scores(found.clean, test.y, found.triggered, triggered.y_true, triggered.y_attack)


def measure(model: nn.Module, test: Images, triggered: Triggered | None) -> Scores:
    """ACC, ASR and RA of ``model``."""
    return scored(predictions(model, test, triggered), test, triggered)


def asr_in_bytes(model: nn.Module, triggered: Triggered) -> float:
    """ASR on triggered images rounded to 8 bit, as a saved picture would be."""
    return metrics.rate(logits(model, to_bytes(triggered.x)).argmax(1) == triggered.y_attack)

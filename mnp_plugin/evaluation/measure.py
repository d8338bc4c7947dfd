"""ACC, ASR and RA of a net."""

from __future__ import annotations

from torch import nn

from mnp_plugin.core.images import Images, Triggered, to_bytes
from mnp_plugin.evaluation import scores as metrics
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.report.records import Scores


def measure(model: nn.Module, test: Images, triggered: Triggered | None) -> Scores:
    """ACC, ASR and RA of ``model``."""
    clean = logits(model, test.x).argmax(1)
    if triggered is None:
        return metrics.scores(clean, test.y, None, None, None)
    bad = logits(model, triggered.x).argmax(1)
    return metrics.scores(clean, test.y, bad, triggered.y_true, triggered.y_attack)


def asr_in_bytes(model: nn.Module, triggered: Triggered) -> float:
    """ASR on triggered images rounded to 8 bit, as a saved picture would be."""
    return metrics.rate(logits(model, to_bytes(triggered.x)).argmax(1) == triggered.y_attack)

"""The verdict on a checkpoint, from files: load, measure, judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mnp_plugin.api import checkpoint as files
from mnp_plugin.api.calls import Progress, detect
from mnp_plugin.api.settings import component
from mnp_plugin.contracts import Detector, Recipe, Verdict, detectors
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.params import to_plain
from mnp_plugin.evaluation.pictures import perturbed
from mnp_plugin.io.atomic import write_atomic

Word = Literal["backdoored", "no backdoor found", "uncalibrated", "undecided"]


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectReport:
    """A checkpoint judged.

    Args:
        word: the decision. ``uncalibrated``: there is a score, but no threshold holds for it. ``undecided``: the net is hardly
            right on the clean images, and nothing was judged.
        reason: what the decision rests on, and what it may suffer from.
        verdict: what the detector gave; None where nothing was judged.
        facts: JSON-ready, all of this with the names of the classes.
    """

    word: Word
    reason: str
    verdict: Verdict | None
    facts: Mapping[str, Any]


def detect_checkpoint(
    checkpoint: Path | str,
    net: str,
    data: Path | str,
    *,
    detector: str | Detector = "mnp",
    settings: Sequence[str] = (),
    net_settings: Sequence[str] = (),
    size: int | None = None,
    normalise: str = "none",
    anyway: bool = False,
    picture: Path | str | None = None,
    html: Path | str | None = None,
    validation: float = 0.2,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> DetectReport:
    """Judge from a folder of clean images whether a checkpoint is backdoored. Nothing in the files is executed.

    Clean accuracy comes first: a net that is hardly right on the images is ``undecided``, in a moment, with a hint.

    Args:
        checkpoint: as for :func:`~mnp_plugin.api.repair.repair_checkpoint`, and so ``net``, ``data``, ``net_settings``, ``size``,
            ``normalise``, ``validation``, ``recipe``, ``seed``, ``device`` and ``progress``.
        detector: name of a registered detector, or one with its settings.
        settings: hyper-parameters of a detector given by name, ``key=value``.
        anyway: judge although the net is hardly right; there is a score then, but no decision.
        picture: PNG to write: clean images, the same with the perturbation that the detector found, and the difference times
            ten. Nothing is written where the detector finds none; ``facts`` then say so.
        html: page to write that shows the verdict and the perturbation; needs the extra ``report``.

    Raises:
        UserError: what is wrong, and how to put it right.
        MethodError: the detector failed.
    """
    recipe = recipe or Recipe()
    if picture is not None and Path(picture).suffix.lower() != ".png":
        raise UserError(f"the picture is a PNG; call it {Path(picture).with_suffix('.png')}, not {picture}")
    files.check_file(picture)
    if html is not None:
        files.check_page(Path(html))
    say: Progress = progress or (lambda what, done, total: None)
    method = component(detectors, detector, settings) if isinstance(detector, str) else detector
    own = files.load(
        checkpoint=Path(checkpoint), net=net, net_settings=net_settings, data=Path(data), size=size, normalise=normalise,
        device=device, crop=recipe.crop, validation=validation, seed=seed, say=say,
    )  # fmt: skip
    if reason := method.refusal(own.model, len(own.classes)):
        raise UserError(f"detector '{method.name}' cannot judge the net '{own.net}': {reason}")
    facts: dict[str, Any] = {
        "detector": to_plain(method),
        **own.facts,
        "clean accuracy": own.accuracy,
    }
    weak = files.fed_wrongly(own)
    if weak is not None and not anyway:
        facts = {"verdict": "undecided", "reason": weak, **facts}
        _write_page(html, facts, own, None)
        return DetectReport(word="undecided", reason=weak, verdict=None, facts=facts)
    say(f"judging with {method.name}", 0, 0)
    verdict = detect(
        own.model, own.images.x, own.images.y, detector=method, validation=validation, recipe=recipe, seed=seed, progress=progress
    )
    word, reason = _decision(verdict, weak)
    facts |= {
        "score": verdict.score,
        "spread": spread(verdict),
        "threshold": verdict.threshold,
        "backdoored": verdict.backdoored,
        "suspected": None if verdict.suspected is None else own.classes[verdict.suspected],
        "evidence": dict(zip(own.classes, verdict.per_class, strict=False)),
        "calibration": verdict.calibration,
        "p-value": verdict.p_value,
        "picture": None,
        "report": dict(verdict.report),
    }
    if picture is not None and verdict.perturbation is not None:
        write_atomic(Path(picture), perturbed(own.images, verdict.perturbation))
        facts["picture"] = str(picture)
    facts = {"verdict": word, "reason": reason, **facts}
    _write_page(html, facts, own, verdict.perturbation)
    return DetectReport(word=word, reason=reason, verdict=verdict, facts=facts)


def _write_page(html: Path | str | None, facts: Mapping[str, Any], own: files.OwnModel, perturbation: Tensor | None) -> None:
    if html is None:
        return
    from mnp_plugin.report.page.model import verdict_data
    from mnp_plugin.report.page.render import render

    picture = None if perturbation is None else perturbed(own.images, perturbation)
    write_atomic(Path(html), render(verdict_data(facts, own.checkpoint.name, picture)).encode())


def spread(verdict: Verdict) -> tuple[float, float] | None:
    """Least and largest score over the detector's draws, which it gives as ``scores`` in its report; None for a single one."""
    scores = verdict.report.get("scores", ())
    return (min(scores), max(scores)) if len(scores) > 1 else None


def _decision(verdict: Verdict, weak: str | None) -> tuple[Word, str]:
    if weak is not None:
        return "undecided", weak
    if verdict.threshold is None:
        return "uncalibrated", verdict.calibration or "the detector has no threshold"
    word: Word = "backdoored" if verdict.backdoored else "no backdoor found"
    bounds = spread(verdict)
    if bounds is not None and bounds[0] <= verdict.threshold < bounds[1]:
        return word, "its draws fall on both sides of the threshold: weak evidence, which another seed may turn"
    return word, "all draws agree" if bounds is not None else "one draw"

"""What the page of one model shows: a repair, or a verdict. From what ``report.json`` and ``detect --json`` hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mnp_plugin.report.beside import Details
from mnp_plugin.report.page.data import neuron_data, picture_uri
from mnp_plugin.report.page.numbers import short, shown_as
from mnp_plugin.report.repaired import repair_verdict


def repair_data(facts: Mapping[str, Any], title: str, details: Details, picture: bytes | None = None) -> dict[str, Any]:
    """The page of a repair.

    Args:
        facts: of :class:`~mnp_plugin.api.repair.RepairReport`.
        title: name of the checkpoint.
        details: neurons and confusion on the clean images, before and after.
        picture: PNG of the perturbation that the defense, or a detector before it, found; None without one.
    """
    measured = [
        {"name": f"clean accuracy, {part}", "note": figures.get("note", ""), "images": figures["images"], **_percent(figures)}
        for part, figures in facts["clean accuracy"].items()
    ]
    triggered = facts.get("triggered") or {}
    names = {"sent to target": f"triggered images sent to {triggered.get('target')}", "right": "triggered images right"}
    for key, name in names.items():
        if key in triggered:
            measured.append({"name": name, "note": "", "images": triggered["images"], **_percent(triggered[key])})
    verdict, failed = repair_verdict(facts)
    verdict = verdict and f"{verdict[0].upper()}{verdict[1:]}."
    used = {"clean accuracy", "triggered", "repair", "verdict", "pruned by layer", "defense"}
    return {
        "kind": "model",
        "title": title,
        "subtitle": f"repaired with {facts['defense'].get('name', 'a defense')}; {_pruned(facts, details)}",
        "verdict": verdict,
        "mood": "bad" if failed else "",
        "measured": measured,
        "warnings": [facts["repair"][key] for key in ("hardly_right", "augmentation", "damage") if key in facts["repair"]],
        "layers": {layer["layer"]: layer["pruned"] for layer in facts["pruned by layer"]},
        "details": {
            "classes": details.classes,
            "clean": details.clean,
            "clean_before": details.clean_before,
            **neuron_data(details),
        },
        "picture": None if picture is None else picture_uri(picture),
        "seen": "This is what the search for a backdoor found; what it means, the sentence at the top says.",
        "report": short(facts["repair"]),
        "settings": short({"defense": facts["defense"], **{key: value for key, value in facts.items() if key not in used}}),
    }


def verdict_data(facts: Mapping[str, Any], title: str, picture: bytes | None) -> dict[str, Any]:
    """The page of a verdict.

    Args:
        facts: of :class:`~mnp_plugin.api.judge.DetectReport`.
        title: name of the checkpoint.
        picture: PNG of the perturbation that was found; None without one.
    """
    used = {"verdict", "reason", "detector", "evidence", "report", "clean accuracy", "picture"}
    accuracy = _percent({"before": facts["clean accuracy"]})
    score = facts.get("score")
    limit = "" if facts.get("threshold") is None else f" (threshold {facts['threshold']:.3g})"
    said = "" if score is None else f": score {score:.3g}{limit}, suspected target: {facts['suspected']}"
    reason = str(facts["reason"]).removeprefix(f"{facts['verdict']}: ")  # said once
    rests = facts.get("calibration")
    notes = [f"Calibrated on: {rests}."] if rests and facts["verdict"] not in ("uncalibrated", "undecided") else []
    return {
        "kind": "model",
        "title": title,
        "subtitle": f"judged by {facts['detector'].get('name', 'a detector')}",
        "verdict": f"{facts['verdict']}{said}. {reason[:1].upper()}{reason[1:]}",
        "warnings": notes,
        "mood": "bad" if facts["verdict"] == "backdoored" else "",
        "measured": [{"name": "clean accuracy", "note": "", "images": facts["clean images"], **accuracy}],
        "evidence": [[name, shown_as(value, 3)] for name, value in (facts.get("evidence") or {}).items()],
        "suspected": facts.get("suspected"),
        "picture": None if picture is None else picture_uri(picture),
        "report": short(facts.get("report") or {}),
        "settings": short({"detector": facts["detector"], **{key: value for key, value in facts.items() if key not in used}}),
    }


def _pruned(facts: Mapping[str, Any], details: Details) -> str:
    gone, of = sum(layer["pruned"] for layer in facts["pruned by layer"]), sum(size for _, size in details.layers)
    return f"{gone} of {of} neurons pruned" if of else f"{gone} neurons pruned"


def _percent(figures: Mapping[str, Any]) -> dict[str, float | None]:
    return {key: None if figures.get(key) is None else short(100.0 * figures[key]) for key in ("before", "after")}

"""What the page of a suite shows, as plain JSON. The page draws it; nothing here is HTML."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mnp_plugin.core.params import fingerprint
from mnp_plugin.report.after import MEANING, after_defense, trial_columns
from mnp_plugin.report.beside import Details, picture_beside
from mnp_plugin.report.detection import cautions, detection
from mnp_plugin.report.figures.detectors import by_detector
from mnp_plugin.report.figures.neurons import standard
from mnp_plugin.report.leaderboard import KEY
from mnp_plugin.report.looks import COLOURS, DASHES, MARKERS, Look
from mnp_plugin.report.page.numbers import short, shown_as
from mnp_plugin.report.page.samples import Groups, screened
from mnp_plugin.report.published import differences
from mnp_plugin.report.ranks import attack_label, may_be_best
from mnp_plugin.report.records import Record, Scores
from mnp_plugin.report.roc import curve
from mnp_plugin.report.shown import Shown
from mnp_plugin.report.statistics import Overall, Statistics
from mnp_plugin.report.summary import what_varies, what_varies_in_cells
from mnp_plugin.report.sweeps import sweeps
from mnp_plugin.report.versions import later_versions

ROOM = 5_700_000
"""Characters of all data. What drawers show of single records fills what the rest leaves; what comes after is named and left out,
so that the page stays small."""

DIGITS = {"ssim": 3, "peak_mb": 0, "auroc": 2, "auroc_low": 2, "auroc_high": 2}
"""Digits behind the point that the page shows; of other numbers one."""

ROW = (
    "acc", "asr", "ra", "der", "acc_std", "asr_std", "ra_std", "der_std", "excess_asr", "excess_asr_std", "acc_before",
    "asr_before", "ra_before", "delta_acc", "asr_floor", "seconds", "peak_mb", "seeds", "draws", "psnr", "ssim", "linf",
    "asr_8bit",
)  # fmt: skip
"""Numbers of the leaderboard that the page has for every row."""


def suite_data(shown: Shown, room: int = ROOM) -> dict[str, Any]:
    """Everything, JSON-ready, numbers rounded to what is shown; the same for the same records.

    Args:
        shown: the suite.
        room: characters of all data.
    """
    own, pool = shown.own, Pool()
    trials = after_defense(shown.table, shown.runs)
    groups = [_group(shown, which, trials) for which in shown.statistics]
    records = _records(shown, pool, _recovered(shown))
    place: dict[tuple[Any, ...], list[int]] = {}
    for i, record in enumerate(own.records):
        place.setdefault(tuple(getattr(record, key) for key in KEY), []).append(i)
    number = {(which.dataset, which.net, which.clean_images): i for i, which in enumerate(shown.statistics)}
    rows = []
    for row in shown.table.to_dict("records"):
        key = tuple(None if pd.isna(row[name]) else row[name] for name in KEY)
        rows.append(
            {
                "group": number[row["dataset"], row["net"], row["clean_images"]],
                "attack": attack_label(row),
                "clean": row["attack"] == "clean",
                "defense": row["defense"],
                "selection": row["selection"],
                "flag": row["flag"],
                "knowledge": row.get("knowledge") or "",
                "source": row["clean_source"],
                "records": place.get(key, []),
                **{name: shown_as(row[name], DIGITS.get(name, 1)) for name in ROW},
            }
        )
    planned = len(own.plan.records) if own.plan else len(own.records)
    failed = sum(record.status == "failed" for record in own.records)
    data = {
        "kind": "suite",
        "title": shown.name,
        "notices": own.notices,
        "progress": {"done": own.done, "planned": planned, "failed": failed},
        "looks": {
            kind: {name: _look(look) for name, look in of.items()}
            for kind, of in (("defenses", shown.looks), ("detectors", shown.detector_looks))
        },
        "groups": groups,
        "rows": packed(rows),
        "records": records,
        "pool": pool.items,
        "detection": _detection(shown, number),
        "samples": screened(shown, number),
        "sweeps": _sweeps(shown, number),
        "published": packed(
            [
                {
                    "attack": attack_label(row),
                    **{k: shown_as(row[k]) for k in (*PUBLISHED, "acc_std", "asr_std", "ra_std")},
                    **{k: row[k] for k in ("defense", "selection", "flag")},
                }
                for row in shown.beside.to_dict("records")
            ]
        ),
        "published differ": "" if shown.beside.empty else differences(shown.beside),
        "provenance": _provenance(own.records),
        "damaged": own.damaged,
        "left out": own.left_out,
    }
    room -= len(json.dumps(data))
    room -= _fill(shown, pool, records, 2 * room // 3)
    pictures = _pictures(shown, records, room)
    return data | {"pictures": pictures, "damaged": own.all_damaged}


def _sweeps(shown: Shown, number: Groups) -> list[dict[str, Any]]:
    """Curves along swept settings; ``group`` is null where they go across groups."""
    return [
        {
            "setting": sweep.setting,
            "of": sweep.of,
            "group": None if sweep.part is None else number[sweep.part],
            "curves": [
                {**vars(curve), "points": [[x, shown_as(asr), shown_as(acc)] for x, asr, acc in curve.points]}
                for curve in sweep.curves
            ],
        }
        for sweep in sweeps(shown.table.to_dict("records"))
    ]


def _look(look: Look) -> list[int]:
    """Places of colour, marker and dashes."""
    return [look.place % len(COLOURS), look.place % len(MARKERS), look.place % len(DASHES)]


PUBLISHED = ("acc", "asr", "ra", "acc_published", "asr_published", "ra_published")


class Pool:
    """Values that many records share, each held once."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.size = 0
        """Characters of all items."""
        self._known: dict[str, int] = {}

    def put(self, value: Any) -> int:
        """The number of ``value`` in :attr:`items`."""
        text = json.dumps(value, sort_keys=True)
        if text not in self._known:
            self._known[text] = len(self.items)
            self.size += len(text)
            self.items.append(value)
        return self._known[text]


def packed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``rows`` of the same keys as their columns and lists of values: keys are not repeated thousands of times."""
    columns = list(rows[0]) if rows else []
    return {"columns": columns, "data": [[row[name] for name in columns] for row in rows]}


def _group(shown: Shown, which: Statistics, trials: pd.DataFrame) -> dict[str, Any]:
    ranking = None
    if which.ranking is not None:
        found = which.ranking
        ranking = {
            "ranks": short(list(found.ranks.items())),
            "attacks": found.attacks,
            "p": _significant(found.p_value),
            "difference": short(found.difference),
            "groups": found.groups,
        }
    comparisons = [
        {**short(vars(pair)), "p_value": _significant(pair.p_value), "p_holm": _significant(pair.p_holm)}
        for pair in which.comparisons
    ]
    return {
        "dataset": which.dataset,
        "net": which.net,
        "images": which.clean_images,
        "cautions": which.cautions,
        "varies": which.varies,
        "within": what_varies_in_cells(shown.part(which)),
        "after": _after(shown.part(which, trials)) if len(trials) else {},
        "overall": [_overall(item) for item in which.overall],
        "ranking": ranking,
        "comparisons": comparisons,
        "intervals": _intervals(shown, which),
    }


def _overall(item: Overall) -> dict[str, Any]:
    names = ("acc", "asr", "ra", "der", "excess_asr", "rank", "clean_delta_acc", "seconds")
    bounds = {score: [shown_as(s.low), shown_as(s.high)] for score, s in item.spreads.items() if s is not None}
    return {
        "defense": item.row["defense"],
        "selection": item.row["selection"],
        "knowledge": item.row["knowledge"] or "",
        "attacks": item.row["attacks"],
        "compared": may_be_best(item.row) and bool(item.row["whole"]),
        **{name: shown_as(item.row[name]) for name in names},
        "std": {name: std for name in names if (std := shown_as(item.row.get(f"{name}_std"))) is not None},
        "interval": bounds,
        "worst": {score: [shown_as(value), attack] for score, (value, attack) in item.worst.items()},
    }


def _after(trials: pd.DataFrame) -> dict[str, Any]:
    """What the trials of this part found; empty where there was none."""
    columns = trial_columns(trials)
    if trials.empty:
        return {}
    rows = [
        {
            **{key: row[key] for key in ("defense", "selection", "attacks")},
            **{name: shown_as(row[name]) for score in ("asr", *columns) for name in (score, f"{score}_std")},
        }
        for row in trials.to_dict("records")
    ]
    return {
        "columns": [[column, MEANING[column.removeprefix("asr_")]] for column in columns],
        "rows": packed(rows),
        "varies": what_varies(trials),
    }


def _intervals(shown: Shown, which: Statistics) -> dict[str, Any]:
    """Intervals over seeds and draws of this part."""
    part = shown.part(which, shown.intervals)
    return packed(
        [
            {
                "attack": attack_label(row),
                **{key: short(row[key]) for key in ("defense", "selection", "score", "low", "high", "n", "varies")},
            }
            for row in part.to_dict("records")
            if row["score"] in ("acc", "asr", "ra", "der", "excess_asr")
        ]
    )


def _significant(value: float | None) -> float | None:
    """A p-value to three digits."""
    return None if value is None else float(f"{value:.3g}")


# ------------------------------------------------------------------------------------------------------------------ records


def _records(shown: Shown, pool: Pool, recovered: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What every drawer shows; :func:`_fill` adds what there is room for."""
    found = []
    for record, file in zip(shown.own.records, shown.own.files, strict=True):
        one: dict[str, Any] = {
            "file": file,
            "seed": record.seed,
            "draw": record.draw,
            "status": record.status,
            "reason": record.reason,
            "before": _triple(record.before),
            "after": _triple(record.after),
            "oracle": _triple(record.oracle),
            "setting": short(record.oracle_setting),
            "seconds": short(record.seconds),
            "peak_mb": short(record.peak_mb),
            "trained": short(record.victim_seconds),
            "spec": {str(key): pool.put(short(value)) for key, value in record.spec.items() if key != "seed"},
            "versions": pool.put(record.versions),
            "hardware": pool.put(short(record.hardware)),
        }
        if recovered and (seen := recovered.get(victim_of(record))):
            one["recovered"] = seen
        found.append(one)
    return found


def _fill(shown: Shown, pool: Pool, records: Sequence[dict[str, Any]], room: int) -> int:
    """Give ``records`` their reports and what lies beside them, as far as ``room`` goes; the characters that took."""
    left = room
    for record, file, one in zip(shown.own.records, shown.own.files, records, strict=True):
        details, before = shown.own.beside.details(record, file), pool.size
        more = {"report": short(record.prune), **({"details": _details(details, pool)} if details else {})}
        needed = len(json.dumps(more)) + pool.size - before
        if needed <= left:
            left -= needed
            one |= more
        else:
            one["left out"] = True
    return room - left


def victim_of(record: Record) -> str:
    """Fingerprint of the victim of a record: all that determines the cell, less what was done to it."""
    return fingerprint({key: value for key, value in record.spec.items() if key not in ("defense", "draw")})


def _recovered(shown: Shown) -> dict[str, list[dict[str, Any]]]:
    """By victim, the detectors that kept a picture of a perturbation that they found it to follow, and what they say."""
    found: dict[str, list[dict[str, Any]]] = {}
    for verdict in shown.own.verdicts:
        name = picture_beside(f"{verdict.attack}-{verdict.detector}-s{verdict.seed}-{verdict.id}.json")
        if verdict.status == "ok" and shown.own.beside.picture(name):
            one = {"detector": verdict.detector, "picture": name, "suspected": verdict.suspected, "score": short(verdict.score)}
            found.setdefault(verdict.victim, []).append(one)
    return found


def _triple(scores: Scores | None) -> list[float | None] | None:
    return None if scores is None else [short(value if value is None else 100 * value) for value in dataclasses.astuple(scores)]


def _details(found: Details, pool: Pool) -> dict[str, Any]:
    """``shared`` numbers in ``pool`` what is the victim's, and so that of every defense's record of it."""
    plain = {
        "clean": found.clean,
        "triggered": found.triggered,
        "picture": found.picture,
        "shown": found.shown,
        "perturbation": short(found.perturbation),
        "path": short(found.path),
        "path images": found.path_images,
    }
    neurons = neuron_data(found)
    victims = {name: getattr(found, name) for name in ("classes", "clean_before", "triggered_before")}
    victims |= {name: neurons.pop(name) for name in ("layers", "neurons before") if name in neurons}
    return {**plain, **neurons, "shared": {name: pool.put(value) for name, value in victims.items()}}


def neuron_data(found: Details) -> dict[str, Any]:
    """Layers and, where neurons are stored, (saliency, magnitude) of each before and after as z-scores within the layer."""
    if not found.before:
        return {}
    gone = set(found.pruned)
    kept = pd.Series(range(len(found.before["magnitude"]))).isin(gone).to_numpy() == 0
    points: dict[str, Any] = {"layers": found.layers, "pruned": found.pruned}
    for name, values, only in (("neurons before", found.before, None), ("neurons after", found.after, kept)):
        if values:
            z = [standard(values[key], found.layers, only).round(2).tolist() for key in ("saliency", "magnitude")]
            points[name] = [[None if math.isnan(v) else v for v in axis] for axis in z]
    return points


def _pictures(shown: Shown, records: Sequence[Mapping[str, Any]], room: int) -> dict[str, str]:
    """The PNGs that drawers show, by name, as data URIs, as far as ``room`` goes."""
    found: dict[str, str] = {}
    details = [record["details"] for record in records if "details" in record]
    triggers = [one["picture"] for one in details]
    perturbations = [one["perturbation"]["picture"] for one in details if one["perturbation"]]
    seen = [one["picture"] for record in records for one in record.get("recovered", ())]
    for name in dict.fromkeys((*triggers, *perturbations, *seen)):
        content = shown.own.beside.picture(name)
        if content is not None:
            uri = picture_uri(content)
            room -= len(uri)
            if room >= 0:
                found[name] = uri
    return found


def picture_uri(content: bytes) -> str:
    """A PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


# ---------------------------------------------------------------------------------------------------------------- detection


DETECTORS = (
    "detector", "attack", "clean_nets", "attacked_nets", "auroc", "auroc_low", "auroc_high", "tpr_at_5_fpr", "target_hit",
    "calibrated_tpr", "calibrated_fpr", "seconds", "flag",
)  # fmt: skip


def _detection(shown: Shown, number: Groups) -> dict[str, Any]:
    own = shown.own
    if not own.verdicts or own.plan is None:
        return {}
    table = detection(own.verdicts, own.plan.gate or 0.0, own.plan.calibration_seeds)
    table = table[table["split"] == "test"]
    rows = [
        {
            "group": number.get((row["dataset"], row["net"], row["clean_images"])),
            **{name: shown_as(row[name], DIGITS.get(name, 1)) for name in DETECTORS},
        }
        for row in table.to_dict("records")
    ]
    judged = shown.judged
    points = []
    for (name, where), healthy, attacked, _ in by_detector(judged):
        mine = judged[(judged["detector"] == name) & (judged["where"] == where)].to_dict("records")
        fpr, tpr = curve(healthy, attacked)
        points.append(
            {
                "group": number.get(mine[0]["part"]),
                "detector": name,
                "roc": [[short(a), short(b)] for a, b in zip(fpr, tpr, strict=True)],
                "scores": [[float(f"{r['score']:.5g}"), int(r["attacked"]), f"{r['attack']}, seed {r['seed']}"] for r in mine],
            }
        )
    failed = Counter((v.detector, v.reason) for v in own.verdicts if v.status != "ok")
    return {
        "rows": packed(rows),
        "cautions": cautions(table),
        "points": points,
        "failed": [[detector, reason, count] for (detector, reason), count in sorted(failed.items())],
    }


# --------------------------------------------------------------------------------------------------------------- provenance


def _provenance(records: Sequence[Record]) -> dict[str, Any]:
    """Which versions and machines how many records come from."""

    def counted(values: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        counts = Counter(json.dumps(value, sort_keys=True) for value in values)
        return [[json.loads(text), count] for text, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]

    return {
        "methods": [f"{label} {version}" for label, version in later_versions(records)],
        "versions": counted([record.versions for record in records]),
        "hardware": counted([record.hardware for record in records]),
        "images": sorted({record.content for record in records if record.content}),
        "seconds": short(sum(record.seconds or 0.0 for record in records)),
    }

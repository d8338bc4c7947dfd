"""The leaderboard: a long csv, one line per (attack, defense) over seeds, and a readable md. Byte for byte reproducible.

Rows are sorted by name, never by the order in which cells ran.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

import pandas as pd

from mnp_plugin.report.floors import Floors, floor_of
from mnp_plugin.report.markdown import lines_of
from mnp_plugin.report.records import Record, Scores, der
from mnp_plugin.report.summary import SUMMARY, summarise, what_varies, what_varies_in_cells

COLUMNS = (
    "dataset", "net", "attack", "poison_ratio", "clean_images", "defense", "selection", "seeds",
    "acc", "asr", "ra", "der", "acc_before", "asr_before", "seconds", "peak_mb", "flag",
    "ra_before", "delta_acc", "acc_std", "asr_std", "ra_std", "der_std", "asr_8bit", "psnr", "ssim", "linf", "clean_source",
    "draws", "asr_floor", "ra_floor", "excess_asr", "excess_asr_std",
)  # fmt: skip
"""Columns of the csv; then ``knowledge`` where a defense was given more than model and clean budget, and ``sweep`` where settings
are swept.

Rates in percent; ``delta_acc`` is acc - acc_before, in points; ``*_std`` over seeds and draws;
``draws`` says how often the defense was run on each victim.

``asr_8bit`` is the victim's ASR on triggered images rounded to 8 bit; ``psnr`` is in dB, ``ssim`` in [0, 1], ``linf`` in grey
levels (0-255), each between clean and triggered test images.

``asr_floor`` and ``ra_floor`` are those of a clean net on the same triggered images, ``excess_asr`` is asr - asr_floor in
points; means over the seeds where that was measured.
"""

KEY = ("dataset", "net", "attack", "poison_ratio", "clean_images", "defense")


def leaderboard(records: Iterable[Record], floors: Floors = MappingProxyType({})) -> pd.DataFrame:
    """Aggregate records over seeds, one row per (dataset, net, attack, defense, selection); columns :data:`COLUMNS`."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    columns = list(COLUMNS)
    for record in records:
        groups.setdefault(tuple(getattr(record, k) for k in KEY), []).append(record)
        columns += ["knowledge"] if record.knowledge and "knowledge" not in columns else []
    rows = []
    for key in sorted(groups, key=_sort_key):
        group = sorted(groups[key], key=lambda r: (r.seed, r.draw, r.cell))
        selection = "none" if key[-1] == "none" else "blind"
        rows.append(_row(key, selection, group, [r.after for r in group], floors))
        if any(r.oracle for r in group):
            rows.append(_row(key, "oracle", group, [r.oracle for r in group], floors))
    for row in rows:
        row["sweep"] = sweep_of(row)
    columns += ["sweep"] if any(row["sweep"] for row in rows) else []
    return with_numbers(pd.DataFrame(rows, columns=columns))


def with_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with columns of nothing as numbers, of which pandas before 3 takes no mean otherwise."""
    return table.astype({column: float for column in table.columns if len(table) and table[column].isna().all()})


def _sort_key(key: tuple[Any, ...]) -> tuple[Any, ...]:
    dataset, net, attack, ratio, images, defense = key
    return dataset, net, attack != "clean", attack, ratio or 0.0, images, defense != "none", defense


def _row(
    key: tuple[Any, ...], selection: str, group: Sequence[Record], scores: Sequence[Scores | None], floors: Floors
) -> dict[str, Any]:
    pairs = [(r, s) for r, s in zip(group, scores, strict=True) if s is not None and r.before is not None]
    took = [(r, s) for r, s in pairs if r.took]
    # What a defense does to a backdoor that is not there says nothing; but whether an attack takes, every seed says.
    used = pairs if selection == "none" else took or pairs
    acc = [s.acc for _, s in used]
    asr = [s.asr for _, s in used]
    ra = [s.ra for _, s in used]
    clean = [(s, floor) for r, s in used if (floor := floor_of(floors, r)) is not None]
    stealth = [r.stealth or {} for r, _ in used]
    linf = _mean([s.get("linf") for s in stealth])
    excess = [s.asr - f.asr for s, f in clean if s.asr is not None and f.asr is not None]
    ders = [der(r.before, s) for r, s in used if r.before]
    row: dict[str, Any] = dict(zip(KEY, key, strict=True))
    row |= {
        "selection": selection,
        "seeds": len({r.seed for r, _ in used}),
        "draws": len({r.draw for r, _ in used}),
        "acc": _percent(acc),
        "asr": _percent(asr),
        "ra": _percent(ra),
        "der": _percent(ders),
        "acc_before": _percent([r.before.acc for r, _ in used if r.before]),
        "asr_before": _percent([r.before.asr for r, _ in used if r.before]),
        "ra_before": _percent([r.before.ra for r, _ in used if r.before]),
        "delta_acc": _percent([s.acc - r.before.acc for r, s in used if r.before]),
        "acc_std": _spread(acc),
        "asr_std": _spread(asr),
        "ra_std": _spread(ra),
        "der_std": _spread(ders),
        "asr_floor": _percent([floor.asr for _, floor in clean]),
        "ra_floor": _percent([floor.ra for _, floor in clean]),
        "excess_asr": _percent(excess),
        "excess_asr_std": _spread(excess),
        "asr_8bit": _percent([r.asr_8bit for r, _ in used]),
        "psnr": _mean([s.get("psnr") for s in stealth]),
        "ssim": _mean([s.get("ssim") for s in stealth]),
        "linf": None if linf is None else 255 * linf,
        "seconds": _mean([r.seconds for r, _ in used]),
        "peak_mb": _mean([r.peak_mb for r, _ in used]),
        "clean_source": group[0].clean_source,
        "knowledge": group[0].knowledge,
        "flag": _flag(group, len(pairs), len(took)),
    }
    return row


SWEPT = re.compile(r"-([a-z_.]+=[^-].*)$")
"""What a label says of the point of a sweep: ``badnets-poison_ratio=0.05``."""


def sweep_of(row: Mapping[str, Any]) -> str:
    """The swept settings of a row, from its labels: ``poison_ratio=0.05, width=8``; empty without a sweep."""
    found = (SWEPT.search(str(row[key])) for key in ("dataset", "net", "attack", "defense"))
    return ", ".join(match[1] for match in found if match)


def _flag(group: Sequence[Record], measured: int, took: int) -> str:
    failed = [r for r in group if r.status == "failed"]
    what = "runs" if any(r.draw for r in group) else "seeds"
    if failed:
        share = "" if len(failed) == len(group) else f" {len(failed)} of {len(group)} {what}"
        return f"failed{share}: {failed[0].reason}"
    if took < measured:
        return "attack-failed" if took == 0 else f"attack-failed {measured - took} of {measured} {what}"
    return ""


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known else None


def _percent(values: Sequence[float | None]) -> float | None:
    mean = _mean(values)
    return None if mean is None else 100 * mean


def _spread(values: Sequence[float | None]) -> float | None:
    known = [100 * v for v in values if v is not None]
    return stdev(known) if len(known) > 1 else None


def to_csv(table: pd.DataFrame) -> str:
    """The csv text: two decimals, empty where there is no value."""
    text = table.copy()
    numbers = text.columns.difference(["poison_ratio", "ssim"]).intersection(text.select_dtypes("float").columns)
    text[numbers] = text[numbers].round(2) + 0.0  # no -0.00
    text["poison_ratio"] = [None if pd.isna(v) else f"{v:g}" for v in table["poison_ratio"]]
    text["ssim"] = [None if pd.isna(v) else f"{v:.4f}" for v in table["ssim"]]
    csv: str = text.to_csv(index=False, float_format="%.2f", lineterminator="\n")
    return csv


def to_markdown(table: pd.DataFrame, title: str, notice: str = "", runs: pd.DataFrame | None = None) -> str:
    """Three tables: defenses ranked over attacks, attacks x defenses with ACC / ASR, and the victims before any defense.

    ``notice`` is a sentence under the title; ``runs`` the single runs, for the spread of the means over attacks.
    """
    lines = [f"# {title}", "", *([notice, ""] if notice else [])]
    for (dataset, net, images), part in table.groupby(["dataset", "net", "clean_images"], sort=True):
        lines += [
            f"## {dataset}, {net}, {images} clean images",
            "",
            *_summary_lines(part, runs),
            "",
            *_matrix_lines(part),
            "",
            *_victim_lines(part),
            *([said, ""] if (said := what_varies_in_cells(part)) else []),
        ]
    lines += [
        "Percent. ASR leaves the target class out (all-to-all: none). Means are over attacks whose victim took (flag empty);",
        "rank is the mean rank by DER over the attacks that all ranked defenses were measured on, of rows that are neither",
        "oracle nor given more than clean images. Rows that lack an attack stand last. ΔACC clean: points gained or lost on the",
        "model that was never attacked. Every defense stops blind, by its clean budget alone; *oracle* rows chose by test ASR,",
        "as published ANP tables do, and are no fair result.",
        "",
    ]
    if table["asr_floor"].notna().any():
        lines[-1:] = [
            "Excess: ASR less that of a clean net of the same data, net and seed on the same triggered images, in points. What",
            "it does there stands in the table of victims.",
            "",
        ]
    return "\n".join(lines)


def _summary_lines(part: pd.DataFrame, runs: pd.DataFrame | None) -> list[str]:
    summary = summarise(part, runs)
    if summary.empty:
        return ["No attack took and was defended, so there is nothing to rank."]
    columns = dict(SUMMARY)
    if summary["excess_asr"].isna().all():
        del columns["excess_asr"]
    given = int(summary["knowledge"].ne("").any())
    head = ["defense", "selection", *["knowledge"] * given, "attacks", *columns.values()]
    rows = []
    for row in summary.to_dict("records"):
        knows = [row["knowledge"] or "clean images"] * given
        scores = [spread_cell(row[k], row.get(f"{k}_std")) for k in columns]
        rows.append([row["defense"], row["selection"], *knows, str(row["attacks"]), *scores])
    return [*lines_of(head, rows), *(["", said] if (said := what_varies(summary)) else [])]


def _matrix_lines(part: pd.DataFrame) -> list[str]:
    columns = list(dict.fromkeys(zip(part["defense"], part["selection"], strict=True)))
    heads = [d if s != "oracle" else f"{d} (oracle)" for d, s in columns]
    matrix: dict[str, dict[tuple[str, str], dict[Any, Any]]] = {}
    for row in part.to_dict("records"):
        label = row["attack"] if pd.isna(row["poison_ratio"]) else f"{row['attack']} {row['poison_ratio']:g}"
        matrix.setdefault(label, {})[row["defense"], row["selection"]] = row
    rows = [[label, *(_score(found.get(column)) for column in columns)] for label, found in matrix.items()]
    lines = lines_of(["ACC / ASR", *heads], rows)
    notes: dict[tuple[str, str], list[str]] = {}
    for row in part[part["flag"] != ""].to_dict("records"):
        notes.setdefault((row["attack"], row["flag"]), []).append(row["defense"])
    if notes:
        lines.append("")
    for (attack, flag), hit in notes.items():
        who = "all defenses" if set(hit) == set(part["defense"]) else ", ".join(dict.fromkeys(hit))
        lines.append(f"- {attack} × {who}: {flag}")
    return lines


def _victim_lines(part: pd.DataFrame) -> list[str]:
    """The victims as trained and how little their triggers show; from the rows without a defense."""
    rows = part[(part["defense"] == "none") & part["acc"].notna()].to_dict("records")
    if not rows:
        return []
    floors = int(part["asr_floor"].notna().any())
    head = ["victim", "seeds", "ACC", "ASR", "RA", *["clean ASR / RA"] * floors]
    head += ["ASR at 8 bit", "PSNR dB", "SSIM", "L∞ grey levels"]
    shown = []
    for row in rows:
        label = row["attack"] if pd.isna(row["poison_ratio"]) else f"{row['attack']} {row['poison_ratio']:g}"
        cells = [label, str(row["seeds"]), *(spread_cell(row[k], row[f"{k}_std"]) for k in ("acc", "asr", "ra"))]
        cells += [f"{_cell(row['asr_floor'])} / {_cell(row['ra_floor'])}"] * floors
        ssim = "—" if pd.isna(row["ssim"]) else f"{row['ssim']:.3f}"
        shown.append([*cells, _cell(row["asr_8bit"]), _cell(row["psnr"]), ssim, _cell(row["linf"])])
    return [*lines_of(head, shown), ""]


def spread_cell(value: float | None, std: float | None) -> str:
    """``84.7 ± 0.3``, the value alone, or a dash where there is none."""
    alone = value is None or pd.isna(value) or std is None or pd.isna(std)
    return _cell(value) if alone else f"{_cell(value)} ± {_cell(std)}"


def _score(row: dict[Any, Any] | None) -> str:
    if row is None or pd.isna(row["acc"]):
        return "—" if row is None or not row["flag"] else "failed"
    parts = [spread_cell(row[key], row[f"{key}_std"]) for key in ("acc", "asr") if not pd.isna(row[key])]
    text = " / ".join(parts)
    return f"{text} ⚠" if row["flag"] else text


def _cell(value: float | None) -> str:
    return "—" if value is None or pd.isna(value) else f"{round(value, 1) + 0.0:.1f}"

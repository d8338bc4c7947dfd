"""Rebuild a suite's tables from its records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.report.detection import detection, detection_lines
from mnp_plugin.report.detection import to_csv as summary_csv
from mnp_plugin.report.floors import from_json as floor_from_json
from mnp_plugin.report.judged import judged
from mnp_plugin.report.judged import to_csv as judged_csv
from mnp_plugin.report.leaderboard import leaderboard, to_csv, to_markdown
from mnp_plugin.report.planned import read_plan, read_records
from mnp_plugin.report.published import beside, read_published
from mnp_plugin.report.samples import from_json as sample_from_json
from mnp_plugin.report.screened import sample_lines, sample_table
from mnp_plugin.report.screened import to_csv as samples_csv
from mnp_plugin.report.texts import R, read_all
from mnp_plugin.report.trials import from_json as trial_from_json
from mnp_plugin.report.trials import trial_lines, with_trials
from mnp_plugin.report.verdicts import from_json as verdict_from_json


@dataclass(frozen=True)
class Built:
    """Files that were written, and what they show.

    ``records`` counts the records shown, ``unsaid`` those of them that do not say which images they were made from; ``left_out``
    names the record files of other settings or images, and ``damaged`` says one sentence of each damaged file.
    """

    csv: Path
    md: Path
    records: int
    left_out: list[str]
    unsaid: int
    damaged: list[str]


def build_tables(folder: Path, published: Path | None = None) -> Built:
    """Write ``leaderboard.csv`` and ``leaderboard.md`` into ``folder`` (``results/<suite>``).

    ``published`` is a file of figures from elsewhere, which the md then sets beside ours, marked as such.

    Raises:
        UserError: no records, or one that cannot be read and is not damaged.
    """
    theirs = None if published is None else read_published(published)
    own = read_records(folder)
    records, damaged = own.records, list(own.damaged)
    plan = read_plan(folder)

    def planned(kind: str, names: Collection[str], read: Callable[[str, str], R]) -> Iterable[R]:
        found, broken = read_all([file for file in sorted((folder / kind).glob("*.json")) if file.name in names], read)
        damaged.extend(broken)
        return found.values()

    trials, verdicts, floors, samples = [], [], [], []
    if plan is not None:
        trials = [t for t in planned("trials", plan.trials, trial_from_json) if plan.shows(t.content)]
        verdicts = [v for v in planned("verdicts", plan.verdicts, verdict_from_json) if plan.shows(v.content)]
        samples = [s for s in planned("samples", plan.samples, sample_from_json) if plan.shows(s.content)]
        floors = [f for f in planned("floors", plan.floors, floor_from_json) if plan.shows(f.content)]
    floor_of = {(f.attack, f.seed): f.floor for f in floors if f.floor}
    table = with_trials(leaderboard(records, floor_of), records, [t for t in trials if t.status == "ok"])
    notices = []
    if plan is not None and len(records) < len(plan.records):
        notices.append(f"Unfinished: {len(records)} of {len(plan.records)} planned cells have a record.")
    if damaged:
        notices.append(f"Damaged files that do not count: {len(damaged)}.")
    unsaid = sum(record.unsaid for record in records)
    built = Built(folder / "leaderboard.csv", folder / "leaderboard.md", len(records), own.left_out, unsaid, damaged)
    write_atomic(built.csv, to_csv(table).encode())
    text = to_markdown(table, f"Leaderboard: {folder.name}", " ".join(notices))
    if further := trial_lines(table):
        text += "\n" + "\n".join(further)
    if plan is not None and verdicts:
        gate, calibration = plan.gate or 0.0, plan.calibration_seeds
        found = detection(verdicts, gate, calibration)
        write_atomic(folder / "detection.csv", judged_csv(judged(verdicts, gate, calibration)).encode())
        write_atomic(folder / "detection_summary.csv", summary_csv(found).encode())
        text += "\n" + "\n".join(detection_lines(found))
    if plan is not None and samples:
        screened = sample_table(samples, plan.gate or 0.0)
        write_atomic(folder / "samples.csv", samples_csv(screened).encode())
        text += "\n" + "\n".join(sample_lines(screened))
    if theirs is not None:
        text += "\n" + "\n".join(beside(table, theirs))
    write_atomic(built.md, text.encode())
    return built

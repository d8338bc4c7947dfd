"""All that a suite has measured, read from its folder: records, floors, trials and verdicts. Imports neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from mnp_plugin.report.beside import Beside
from mnp_plugin.report.floors import Floors, by_victim
from mnp_plugin.report.floors import from_json as floor_from_json
from mnp_plugin.report.planned import Plan, read_plan, read_records
from mnp_plugin.report.records import Record
from mnp_plugin.report.samples import SampleRecord
from mnp_plugin.report.samples import from_json as sample_from_json
from mnp_plugin.report.texts import R, read_all
from mnp_plugin.report.trials import TrialRecord
from mnp_plugin.report.trials import from_json as trial_from_json
from mnp_plugin.report.verdicts import VerdictRecord
from mnp_plugin.report.verdicts import from_json as verdict_from_json


@dataclass(frozen=True)
class Results:
    """What counts of a suite.

    ``files`` names the record files in the order of ``records``; ``floors`` is by attack and seed, and by what is swept;
    ``left_out`` names record files of other settings or images, ``damaged`` says one sentence of each damaged file.
    ``beside`` reads what else is kept of a record, to be looked at.
    """

    folder: Path
    plan: Plan | None
    records: list[Record]
    files: list[str]
    floors: Floors
    trials: list[TrialRecord]
    verdicts: list[VerdictRecord]
    samples: list[SampleRecord]
    left_out: list[str]
    damaged: list[str]
    beside: Beside = field(repr=False)  # an address is no result: see figures.kept
    older: int = 0
    """How many of ``records`` are of older versions of their methods, in the place of planned ones."""

    @property
    def done(self) -> int:
        """How many planned records are there."""
        return len(self.records) - self.older

    @property
    def all_damaged(self) -> list[str]:
        """:attr:`damaged`, and what was found damaged of that which lies beside records, as far as it was looked at."""
        return [*self.damaged, *self.beside.damaged]

    @property
    def notices(self) -> list[str]:
        """Sentences for the head of a table: what is missing."""
        found = []
        if self.plan is not None and self.done < len(self.plan.records):
            found.append(f"Unfinished: {self.done} of {len(self.plan.records)} planned cells have a record.")
        if self.older:
            found.append(f"Of older versions, named in brackets, until they are made again: {self.older} records.")
        if self.plan is None:
            found.append("suite.json is missing: gate, labels and further records are not known; run the suite again.")
        if self.damaged:
            found.append(f"Damaged files that do not count: {len(self.damaged)}.")
        return found


def read_results(folder: Path) -> Results:
    """Read ``results/<suite>``.

    Raises:
        UserError: no records, or a file that cannot be read and is not damaged.
    """
    own = read_records(folder)
    damaged, plan = list(own.damaged), read_plan(folder)

    def planned(kind: str, names: Collection[str], read: Callable[[str, str], R]) -> list[R]:
        found, broken = read_all([file for file in sorted((folder / kind).glob("*.json")) if file.name in names], read)
        damaged.extend(broken)
        return list(found.values())

    trials, verdicts, floors, samples = [], [], [], []
    if plan is not None:
        trials = [t for t in planned("trials", plan.trials, trial_from_json) if plan.shows(t.content)]
        verdicts = [v for v in planned("verdicts", plan.verdicts, verdict_from_json) if plan.shows(v.content)]
        samples = [s for s in planned("samples", plan.samples, sample_from_json) if plan.shows(s.content)]
        floors = [f for f in planned("floors", plan.floors, floor_from_json) if plan.shows(f.content)]
    return Results(
        folder=folder,
        plan=plan,
        records=own.records,
        files=own.files,
        floors=by_victim(floors, {} if plan is None else plan.labels),
        trials=trials,
        verdicts=verdicts,
        samples=samples,
        left_out=own.left_out,
        damaged=damaged,
        beside=Beside(folder),
        older=own.older,
    )

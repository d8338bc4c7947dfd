"""What figures and page show of a suite: its results, and all that is worked out from them once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from mnp_plugin.report.frames import runs_of, table_of
from mnp_plugin.report.looks import Look, looks
from mnp_plugin.report.published import OWN, matched, read_published
from mnp_plugin.report.results import Results, read_results
from mnp_plugin.report.samples import SampleRecord
from mnp_plugin.report.spread import intervals
from mnp_plugin.report.statistics import Statistics, statistics
from mnp_plugin.report.verdicts import VerdictRecord


@dataclass(frozen=True)
class Shown:
    """Args:
    own: what was measured.
    published: figures from elsewhere, as :func:`~mnp_plugin.report.published.read_published` gives them; None for none.
    """

    own: Results
    published: pd.DataFrame | None = None

    @property
    def name(self) -> str:
        """Name of the suite."""
        return self.own.folder.resolve().name

    @cached_property
    def table(self) -> pd.DataFrame:
        """The leaderboard."""
        return table_of(self.own, self.runs)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per record and selection."""
        return runs_of(self.own)

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """Intervals over seeds and draws."""
        return intervals(self.runs)

    @cached_property
    def statistics(self) -> list[Statistics]:
        """By data set, net and number of clean images."""
        return statistics(self.table, self.runs)

    @cached_property
    def beside(self) -> pd.DataFrame:
        """The rows of the leaderboard that were also published; empty without ``published``."""
        return self.table.iloc[:0] if self.published is None else matched(self.table, self.published)

    def part(self, which: Statistics, table: pd.DataFrame | None = None) -> pd.DataFrame:
        """The rows of ``table`` (None: of the leaderboard) that ``which`` is about."""
        t = self.table if table is None else table
        return t[(t["dataset"] == which.dataset) & (t["net"] == which.net) & (t["clean_images"] == which.clean_images)]

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Of every defense."""
        return looks(self.table["defense"])

    @cached_property
    def detector_looks(self) -> dict[str, Look]:
        """Of every detector, of nets and of single images."""
        return looks([*(v.detector for v in self.own.verdicts), *(s.detector for s in self.own.samples)])

    def took(self, record: VerdictRecord | SampleRecord) -> bool:
        """Whether the attack on the net of ``record`` succeeded, or there was none."""
        gate = (self.own.plan.gate if self.own.plan else None) or 0.0
        return record.asr is None or record.asr >= gate

    def where(self, record: VerdictRecord | SampleRecord) -> str:
        """Data set, net and number of clean images, where detectors were run on several of them; else empty."""
        return f"{record.dataset}, {record.net}, {record.clean_images} clean images" if self._several else ""

    @cached_property
    def _several(self) -> bool:
        records: list[VerdictRecord | SampleRecord] = [*self.own.verdicts, *self.own.samples]
        return len({(record.dataset, record.net, record.clean_images) for record in records}) > 1

    @property
    def judged(self) -> pd.DataFrame:
        """Scores of detectors on nets of the test that count, one row per verdict; ``where`` as :meth:`where` says."""
        calibration = self.own.plan.calibration_seeds if self.own.plan else ()
        rows = [
            {
                "detector": v.detector,
                "where": self.where(v),
                "part": (v.dataset, v.net, v.clean_images),
                "attacked": v.attack != "clean",
                **{key: getattr(v, key) for key in ("score", "attack", "seed")},
            }
            for v in self.own.verdicts
            if v.status == "ok" and v.score is not None and self.took(v) and v.seed not in calibration
        ]
        return pd.DataFrame(rows, columns=["detector", "where", "part", "attacked", "score", "attack", "seed"])


def shown(folder: Path, published: Path | None = None) -> Shown:
    """Read ``results/<suite>``, and the file of published figures: the given one, or that in the folder, if there is one.

    Raises:
        UserError: no records, or a file that cannot be read.
    """
    if published is None and (folder / OWN).is_file():
        published = folder / OWN
    return Shown(read_results(folder), None if published is None else read_published(published))

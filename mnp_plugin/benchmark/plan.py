"""Suite -> jobs in order. Pure: reads no disk and makes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from mnp_plugin.benchmark.jobs.floor import FloorJob
from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.jobs.recorded import RecordJob
from mnp_plugin.benchmark.jobs.samples import SampleJob, sample_jobs
from mnp_plugin.benchmark.jobs.scores import ScoreJob
from mnp_plugin.benchmark.jobs.trial import TrialJob
from mnp_plugin.benchmark.jobs.verdict import VerdictJob, verdict_jobs
from mnp_plugin.benchmark.suite import AnyVictim, Cell, Suite
from mnp_plugin.core.params import fingerprint
from mnp_plugin.evaluation.trials import TRIALS


def score_jobs(suite: Suite, cells: Iterable[Cell]) -> list[ScoreJob]:
    """The job of each cell."""
    return [ScoreJob(suite.name, suite.gate, cell) for cell in cells]


def further_jobs(
    suite: Suite, cells: Iterable[Cell], detectors: Collection[str] | None = None
) -> list[VerdictJob | SampleJob | TrialJob]:
    """Verdicts on the victims of ``cells`` and on single images of theirs, trials after their defenses; those that need the
    trigger only where it is known.
    """
    cells = list(cells)
    verdicts = verdict_jobs(suite, [cell.victim for cell in cells], detectors)
    samples = sample_jobs(suite, [cell.victim for cell in cells], detectors)
    trials = [
        TrialJob(suite.name, cell, name)
        for cell in cells
        for name in suite.trials
        if not TRIALS[name].wants_trigger or cell.victim.trigger is not None
    ]
    return [*verdicts, *samples, *trials]


def floor_jobs(suite: Suite, cells: Iterable[Cell]) -> list[FloorJob]:
    """The floors of the attacks of ``cells`` that were trained here, where the suite has a clean net of their seed."""
    clean: dict[str, list[AnyVictim]] = {}
    for victim in suite.victims:
        if victim.kept and victim.trigger is None:
            clean.setdefault(_images_and_net(victim), []).append(victim)
    attacked = {cell.victim.fingerprint: cell.victim for cell in cells if cell.victim.trigger is not None}
    found = []
    for victim in attacked.values():
        alike = clean.get(_images_and_net(victim), [])
        same_recipe = [one for one in alike if one.recipe == victim.recipe]
        found += [FloorJob(suite.name, victim, one) for one in (same_recipe or alike)[:1]]
    return found


def _images_and_net(victim: AnyVictim) -> str:
    """What a victim and the clean net of its floor have in common."""
    about = victim.plain()
    return fingerprint([about.get("dataset"), about.get("net"), about["clean_budget"], victim.seed])


def further_records(suite: Suite) -> dict[str, list[str]]:
    """Names of the records of all :func:`further_jobs` and :func:`floor_jobs` of a suite, by kind."""
    cells = list(suite.cells())
    names: dict[str, list[str]] = {}
    for job in [*further_jobs(suite, cells), *floor_jobs(suite, cells)]:
        names.setdefault(job.kind, []).append(job.file_name)
    return names


def recorded_jobs(suite: Suite) -> list[RecordJob]:
    """All jobs of a suite that end in a record."""
    cells = list(suite.cells())
    return [*score_jobs(suite, cells), *further_jobs(suite, cells), *floor_jobs(suite, cells)]


def plan(suite: Suite) -> list[Job]:
    """Every job of a suite, each once and after all that it needs; victim by victim."""
    return in_order(recorded_jobs(suite))


def in_order(goals: Iterable[Job], kept: Callable[[Job], bool] = lambda job: False) -> list[Job]:
    """``goals`` and all they need, each once and after all that it needs.

    Args:
        goals: jobs to be made.
        kept: says which need not be made; nor need what only they need.
    """
    order: dict[Job, None] = {}
    found: set[Job] = set()

    def add(job: Job) -> bool:
        """Whether ``job`` must be made."""
        if job in order or job in found:
            return job in order
        if kept(job) and not any(add(first) for first in job.follows):
            found.add(job)
            return False
        for need in job.needs:
            add(need)
        order[job] = None
        return True

    for goal in goals:
        add(goal)
    return list(order)

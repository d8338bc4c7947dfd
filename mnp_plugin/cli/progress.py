"""What a run looks like while it runs: bars on a terminal, plain lines elsewhere. On stderr, so that stdout is the table."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from mnp_plugin.report.records import Record, Scores


class Screen:
    """Observer of a run. On a terminal: what runs now, done/total, time left; everywhere: a line per finished cell.

    Args:
        suite: its name.
        jobs: victims worked on at once; the last so many that said something have a bar each.
        quiet: say nothing.
    """

    def __init__(self, suite: str, jobs: int = 1, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        columns = (
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.bars = Progress(*columns, console=self.console, disable=quiet or not self.console.is_terminal, expand=True)
        self.jobs = jobs
        self.cells = self.bars.add_task(suite, total=None)
        self.victims: dict[str, tuple[TaskID, str]] = {}  # bar and stage; the one heard of last comes last
        self.told: set[str] = set()

    def __enter__(self) -> Screen:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        for bar, _stage in self.victims.values():
            self.bars.remove_task(bar)  # what ran last runs no more
        self.victims.clear()
        self.bars.stop()

    def plan(self, total: int, done: int, further: int = 0, further_done: int = 0) -> None:
        """Say how much there is to do."""
        self.bars.update(self.cells, total=total + further, completed=done + further_done)
        beside = f"; {further} verdicts, trials and floors, {further_done} done before" if further else ""
        self.console.print(f"{total} cells, {done} done before{beside}")

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, markup=False)

    def notice(self, text: str) -> None:
        """Print a sentence, and keep it."""
        self.say(text)

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        """Show what runs now. ``what`` is ``victim: stage, figures``; every stage has a bar of its own."""
        stage = what.partition(",")[0]
        victim = stage.partition(":")[0]
        if stage not in self.told and not self.console.is_terminal:
            self.console.print(f"... {stage}", markup=False)
        self.told.add(stage)
        bar, before = self.victims.pop(victim, (None, ""))
        if bar is not None and before != _bar_of(stage, steps):
            self.bars.remove_task(bar)  # rich cannot take the length of a bar away again, nor start its clock anew
            bar = None
        if bar is None:
            while len(self.victims) >= self.jobs:
                self.bars.remove_task(self.victims.pop(next(iter(self.victims)))[0])
            bar = self.bars.add_task("", total=None)
        self.victims[victim] = bar, _bar_of(stage, steps)
        self.bars.update(bar, description=escape(what), completed=step, total=steps or None)

    def finished(self, record: Record) -> None:
        """Print the cell's scores."""
        self.bars.advance(self.cells)
        name = f"{record.attack:10} {record.defense:8} seed {record.seed}"
        if record.status == "failed":
            self.console.print(f"[red]failed[/red] {name}  {escape(record.reason)}", markup=True)
            return
        text = f"{name}  {_scores(record.before)} -> {_scores(record.after)}  {record.seconds:.1f} s"
        self.console.print(text if record.took else f"{text}  [yellow]attack did not take[/yellow]")

    def measured(self, title: str, reason: str) -> None:
        """Count a verdict, a trial or a floor; tell those that failed."""
        self.bars.advance(self.cells)
        if reason:
            self.console.print(f"[red]failed[/red] {escape(title)}  {escape(reason)}", markup=True)


def _bar_of(stage: str, steps: int) -> str:
    """Stages of a known length and the same stage before its length was known have bars of their own."""
    return f"{stage}, {'known' if steps else 'unknown'}"


def _scores(scores: Scores | None) -> str:
    if scores is None:
        return "-"
    asr = "" if scores.asr is None else f" ASR {100 * scores.asr:5.1f}"
    return f"ACC {100 * scores.acc:5.1f}{asr}"

"""What a run looks like while it runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mnp_plugin.report.records import Record, Scores


class Screen:
    """Observer of a run. On a terminal: what runs now, done/total, time left; everywhere: a line per finished cell.

    Args:
        suite: its name.
        jobs: victims worked on at once; the last so many that said something have a bar each.
    """

    def __init__(self, suite: str, jobs: int = 1) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.bars = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.jobs = jobs
        self.cells = self.bars.add_task(suite, total=None)
        self.victims: dict[str, TaskID] = {}  # the one heard of last comes last
        self.told: set[str] = set()

    def __enter__(self) -> Screen:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def plan(self, total: int, done: int) -> None:
        """Say how much there is to do."""
        self.bars.update(self.cells, total=total, completed=done)
        self.console.print(f"{total} cells, {done} done before")

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        """Show what runs now."""
        stage = what.partition(",")[0]
        victim = stage.partition(":")[0]
        if stage not in self.told and not self.console.is_terminal:
            self.console.print(f"... {stage}")
        self.told.add(stage)
        bar = self.victims.pop(victim, None)
        if bar is None:
            while len(self.victims) >= self.jobs:
                self.bars.remove_task(self.victims.pop(next(iter(self.victims))))
            bar = self.bars.add_task("")
        self.victims[victim] = bar
        self.bars.update(bar, description=what, completed=step, total=steps or None)

    def finished(self, record: Record) -> None:
        """Print the cell's scores."""
        self.bars.advance(self.cells)
        name = f"{record.attack:10} {record.defense:8} seed {record.seed}"
        if record.status == "failed":
            self.console.print(f"[red]failed[/red] {name}  {escape(record.reason)}", markup=True)
            return
        text = f"{name}  {_scores(record.before)} -> {_scores(record.after)}  {record.seconds:.1f} s"
        self.console.print(text if record.took else f"{text}  [yellow]attack did not take[/yellow]")


def _scores(scores: Scores | None) -> str:
    if scores is None:
        return "-"
    asr = "" if scores.asr is None else f" ASR {100 * scores.asr:5.1f}"
    return f"ACC {100 * scores.acc:5.1f}{asr}"

"""What a run looks like while it runs: two bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mnp_plugin.records import Record, Scores


class Screen:
    """Observer of a run. On a terminal: what runs now, done/total, time left; everywhere: a line per finished cell."""

    def __init__(self, suite: str) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.bars = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.suite = suite
        self.cells = self.bars.add_task(suite, total=None)
        self.epochs = self.bars.add_task("", visible=False)
        self.stage = ""

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
        stage, _, detail = what.partition(",")
        if stage != self.stage:
            self.stage = stage
            self.bars.reset(self.epochs)
            if not self.console.is_terminal:
                self.console.print(f"... {stage}")
        self.bars.update(self.cells, description=f"{self.suite}: {stage}")
        self.bars.update(self.epochs, visible=steps > 0, description=f"epochs{detail}", completed=step, total=steps)

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

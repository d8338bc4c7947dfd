"""Bars on a terminal: none may show the count of a step that is over."""

from __future__ import annotations

import io

from rich.console import Console

from mnp_plugin.cli.progress import Screen


def on_terminal(width: int = 110, jobs: int = 1) -> Screen:
    screen = Screen("digits", jobs)
    console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False, soft_wrap=True)
    screen.console = screen.bars.live.console = console
    screen.bars.disable = False
    return screen


def bars(screen: Screen) -> list[tuple[str, float, float | None]]:
    return [(task.description, task.completed, task.total) for task in screen.bars.tasks]


def test_a_step_without_a_count_shows_none_of_the_step_before() -> None:
    screen = on_terminal()
    screen.plan(100, 0)
    screen.busy("d/n stripe seed 0: training, loss 0.5", 15, 15)
    screen.busy("d/n stripe seed 0: mnp")
    assert bars(screen) == [("digits", 0, 100), ("d/n stripe seed 0: mnp", 0, None)]
    screen.busy("d/n stripe seed 0: mnp", 3, 8)
    assert bars(screen)[1] == ("d/n stripe seed 0: mnp", 3, 8)
    screen.busy("d/n stripe seed 0: mnp")
    assert bars(screen)[1] == ("d/n stripe seed 0: mnp", 0, None)


def test_a_step_goes_on_in_its_own_bar() -> None:
    screen = on_terminal()
    screen.busy("v: training, loss 0.9", 1, 9)
    first = screen.bars.tasks[1].id
    screen.busy("v: training, loss 0.8", 2, 9)
    assert screen.bars.tasks[1].id == first
    assert bars(screen)[1] == ("v: training, loss 0.8", 2, 9)


def test_as_many_victims_as_jobs_have_a_bar_and_none_stays_at_the_end() -> None:
    screen = on_terminal(jobs=2)
    with screen:
        for victim in ("a", "b", "c"):
            screen.busy(f"{victim}: training", 1, 2)
        assert [text for text, _, _ in bars(screen)[1:]] == ["b: training", "c: training"]
    assert bars(screen) == [("digits", 0, None)]


def test_bars_keep_to_one_line_on_a_narrow_terminal() -> None:
    screen = on_terminal(width=60)
    screen.plan(3024, 12)
    screen.busy("cifar10/preactresnet18 adaptive_blend-0.003 seed 0: training, loss 0.123", 3, 100)
    with screen.console.capture() as captured:
        screen.console.print(screen.bars.get_renderable())
    lines = captured.get().rstrip("\n").split("\n")
    assert len(lines) == 2
    assert "3/100" in lines[1]
    assert "12/3024" in lines[0]


def test_verdicts_trials_and_floors_count_and_only_those_that_fail_are_told() -> None:
    screen = on_terminal()
    with screen.console.capture() as captured:
        screen.plan(10, 4, 6, 1)
        screen.measured("d/n stripe seed 0: detector mnp", "")
        screen.measured("d/n stripe seed 1: detector mnp", "ValueError: [no]")
    assert bars(screen) == [("digits", 7, 16)]
    assert "10 cells, 4 done before; 6 verdicts, trials and floors, 1 done before" in captured.get()
    assert captured.get().count("detector") == 1
    assert "d/n stripe seed 1: detector mnp  ValueError: [no]" in captured.get()

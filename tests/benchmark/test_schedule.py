"""Which job is next: order, failures, and what other runs make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from mnp_plugin.benchmark.jobs.job import Job
from mnp_plugin.benchmark.schedule import LONGEST_PAUSE, Schedule


@dataclass(frozen=True, eq=False)
class Named(Job):
    name: str
    after: tuple[Named, ...] = ()
    kind = "named"

    @property
    def identity(self) -> dict[str, str]:
        return {"name": self.name}

    @property
    def title(self) -> str:
        return self.name

    @property
    def images_of(self) -> Any:
        raise AssertionError("needs no images")

    @property
    def needs(self) -> tuple[Named, ...]:
        return self.after

    def make(self, inputs: Any, bench: Any) -> Any:
        raise AssertionError("not made here")


A = Named("a")
B = Named("b", (A,))
C = Named("c", (A,))
D = Named("d", (B, C))


def titles(schedule: Schedule) -> list[str]:
    found = []
    while (job := schedule.take()) is not None:
        found.append(job.title)
    return found


def test_each_comes_in_the_order_of_the_plan_after_all_that_it_needs() -> None:
    schedule = Schedule([A, B, C, D])
    assert titles(schedule) == ["a"]
    schedule.done(A)
    assert titles(schedule) == ["b", "c"]
    schedule.done(C)
    assert titles(schedule) == []
    schedule.done(B)
    assert titles(schedule) == ["d"]
    schedule.done(D)
    assert schedule.left == 0


def test_what_a_list_does_not_hold_is_there_already() -> None:
    assert titles(Schedule([D, B])) == ["b"]


def test_what_needs_a_failed_job_fails_for_the_same_reason() -> None:
    schedule = Schedule([A, B, C, D])
    schedule.take()
    schedule.done(A, "no card")
    assert schedule.blocked(B) == schedule.blocked(C) == "no card"
    for job in (B, C):
        schedule.done(job, schedule.blocked(job))
    assert schedule.blocked(D) == "no card"


def test_what_another_run_makes_comes_at_the_end_and_less_and_less_often() -> None:
    now = 0.0
    schedule = Schedule([A, Named("x")], lambda: now)
    assert schedule.take() is A
    schedule.put_off(A)
    assert titles(schedule) == ["x"]
    pauses = []
    for _ in range(9):
        pauses.append(schedule.pause)
        now += schedule.pause
        assert schedule.take() is A
        schedule.put_off(A)
    assert pauses[:3] == pytest.approx([0.1, 0.2, 0.4])
    assert max(pauses) == pytest.approx(LONGEST_PAUSE)


def test_a_job_set_apart_waits_until_it_is_alone_and_one_given_back_does_not() -> None:
    schedule = Schedule([A, Named("x")])
    assert schedule.take() is A
    schedule.set_apart(A)
    x = schedule.take()
    assert x is not None
    assert schedule.take() is None
    assert schedule.take(alone=True) is A
    schedule.give_back(A, "its process died twice")
    assert schedule.take() is A
    assert schedule.blocked(A) == "its process died twice"

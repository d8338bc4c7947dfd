"""Sweeps: each point is what a suite without a sweep makes of its settings, under a name that says the values."""

from __future__ import annotations

import pytest

from mnp_plugin.benchmark.plan import floor_jobs
from mnp_plugin.benchmark.suite import Suite
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.core.errors import UserError
from mnp_plugin.report.leaderboard import leaderboard
from mnp_plugin.report.records import Record, Scores

TEXT = """\
dataset: {name: digits, size: 8}
net: {name: smallnet, width: 4}
recipe: {epochs: 2}
clean_budget: {images: 40}
attacks:
  - clean
  - {name: badnets, poison_ratio: 0.05}
defenses:
  - none
  - {name: ft, epochs: 1}
"""


def suite(*changes: tuple[str, str]) -> Suite:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_suite(text, "s.yaml", "s")


def fingerprints(of: Suite) -> set[str]:
    return {cell.fingerprint for cell in of.cells()}


def test_an_entry_is_swept_alone_and_its_points_are_those_of_suites_without_a_sweep() -> None:
    swept = suite(("0.05", "{sweep: [0.05, 0.1]}"))
    assert [v.attack.label for v in swept.victims] == ["clean", "badnets-poison_ratio=0.05", "badnets-poison_ratio=0.1"]
    assert fingerprints(swept) == fingerprints(suite()) | fingerprints(suite(("0.05", "0.1")))


def test_the_whole_suite_is_swept_with_all_its_cells() -> None:
    swept = suite(("width: 4", "width: {sweep: [4, 6]}"), ("images: 40", "images: {sweep: [40, 60]}"))
    assert {v.net.label for v in swept.victims} == {f"smallnet-width={w}-images={i}" for w in (4, 6) for i in (40, 60)}
    points = [suite(("width: 4", f"width: {w}"), ("images: 40", f"images: {i}")) for w in (4, 6) for i in (40, 60)]
    assert fingerprints(swept) == set.union(*map(fingerprints, points))
    assert len(fingerprints(swept)) == 16
    floors = floor_jobs(swept, swept.cells())
    assert len(floors) == 4
    assert all((job.subject.net, job.subject.budget) == (job.clean.net, job.clean.budget) for job in floors)


def test_whole_nets_and_defenses_can_be_swept() -> None:
    nets = suite(("{name: smallnet, width: 4}", "{sweep: [resnet18, {name: smallnet, width: 4}]}"))
    assert [v.net.label for v in nets.victims[::2]] == ["resnet18", "smallnet-width=4"]
    defenses = suite(("epochs: 1}", "epochs: {sweep: [1, 2]}, lr: {sweep: [0.1, 0.2]}}"))
    assert [d.label for d in defenses.defenses[1:]] == [f"ft-epochs={e}-lr={lr}" for e in (1, 2) for lr in (0.1, 0.2)]


def test_whole_recipes_are_told_apart_by_their_settings() -> None:
    swept = suite(("{epochs: 2}", "{sweep: [{epochs: 2}, {epochs: 3, lr: 0.1}]}"))
    assert [v.net.label for v in swept.victims[::2]] == ["smallnet-epochs=2", "smallnet-epochs=3-lr=0.1"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.05", "{sweep: [0.05]}", r"s.yaml, line 7: attacks.1.poison_ratio.sweep: must be a list of two or more values"),
        ("0.05", "{sweep: [0.05, 0.05]}", "a value stands twice"),
        ("0.05", "{sweep: [0.05, 5]}", r"line 7: .*poison_ratio.* must be .*<= 1, not 5"),
        ("0.05", "{sweep: [0.05, 0.1], also: 1}", "a sweep stands alone"),
        ("0.05", "{sweep: [0.1, {sweep: [1, 2]}]}", "a sweep cannot hold another"),
        ("- clean", "- [{sweep: [clean, badnets]}]", "only settings of dataset, net"),
        ("epochs: 1}", "epochz: {sweep: [1, 2]}}", "line 10: .*unknown key 'epochz'"),
        ("name: badnets, poison_ratio: 0.05", "name: {sweep: [badnets, wanet]}", "only settings of dataset, net"),
        ("dataset:", "seeds: {sweep: [1, 2]}\ndataset:", "only settings of dataset, net"),
        ("- none\n", "- {name: none, x: {sweep: [1, 2]}}\n", "'none' keeps its own label"),
        (
            "{name: smallnet, width: 4}",
            "{sweep: [{name: smallnet, width: 4, label: a}, {name: smallnet, width: 6, label: a}]}",
            "two points of a sweep are both called 'digits/a clean seed 0'",
        ),
        ("images: 40", f"images: {{sweep: {list(range(1, 1102))}}}", "more than 1000 combinations"),
    ],
)
def test_mistakes_are_named_with_their_line(old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        suite((old, new))


def test_lines_are_those_of_the_file_after_a_swept_entry() -> None:
    with pytest.raises(UserError, match=r"line 11: .*unknown key 'epochz'"):
        suite(("epochs: 1}", "epochs: {sweep: [1, 2]}}\n  - {name: ft, label: x, epochz: 1}"))


def test_the_table_has_a_column_for_what_is_swept() -> None:
    def row(defense: str) -> Record:
        score = Scores(acc=0.9, asr=0.9, ra=0.1)
        return Record(
            cell=defense, suite="s", dataset="digits", net="smallnet-width=4", attack="badnets", defense=defense, seed=0,
            status="ok", before=score, after=score,
        )  # fmt: skip

    table = leaderboard([row("none"), row("ft-epochs=2")])
    assert list(table["sweep"]) == ["width=4", "width=4, epochs=2"]

"""Figures: what is drawn, that it is the same again, and that no name breaks one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest

from mnp_plugin.cli import main
from mnp_plugin.core.errors import UserError
from mnp_plugin.report import build
from mnp_plugin.report.beside import DETAILS, Details
from mnp_plugin.report.build import build_tables
from mnp_plugin.report.figures.catalogue import NAMES, drawn, one
from mnp_plugin.report.figures.defenses import front
from mnp_plugin.report.figures.detectors import roc_inputs
from mnp_plugin.report.figures.kept import kept, origin
from mnp_plugin.report.figures.neurons import standard
from mnp_plugin.report.figures.style import blank, written
from mnp_plugin.report.looks import COLOURS, MARKERS, USUAL, looks
from mnp_plugin.report.records import Record, Scores
from mnp_plugin.report.samples import SampleRecord
from mnp_plugin.report.shown import Shown, shown
from mnp_plugin.report.texts import to_json
from mnp_plugin.report.verdicts import VerdictRecord

Make = Callable[..., list[Record]]
Write = Callable[[Path, Sequence[Record]], Path]


def verdicts() -> Iterator[VerdictRecord]:
    for attack in ("clean", "badnets"):
        for seed in range(4):
            for detector, score in (("sharp", seed + 10 * (attack != "clean")), ("blunt", seed)):
                facts: dict[str, Any] = {
                    "id": "0" * 16, "victim": "v", "suite": "made", "dataset": "d", "net": "n", "poison_ratio": None,
                    "status": "ok", "asr": 1.0, "score": float(score), "seconds": 1.0,
                }  # fmt: skip
                yield VerdictRecord(attack=attack, seed=seed, detector=detector, **facts)


def samples() -> Iterator[SampleRecord]:
    for questions in ("inputs", "training set"):
        for seed, corner in enumerate((0.2, 0.6)):
            facts: dict[str, Any] = {
                "id": "0" * 16, "victim": "v", "suite": "made", "dataset": "d", "net": "n", "attack": "badnets",
                "poison_ratio": 0.1, "seed": seed, "status": "ok", "asr": 1.0, "positives": 5, "negatives": 5, "seconds": 1.0,
            }  # fmt: skip
            roc = [[0.0, 0.0], [corner, 1.0], [1.0, 1.0]]
            yield SampleRecord(detector="sieve", questions=questions, auroc=1 - corner / 2, roc=roc, **facts)
    yield SampleRecord(detector="sieve", questions="inputs", auroc=0.5, roc=[[0.0, 0.0], [1.0, 1.0]], **(facts | {"asr": 0.0}))


def no_attack(record: Record) -> Scores:
    """What a clean net has instead of the scores of ``record``."""
    assert record.before
    return Scores(acc=record.before.acc, asr=None, ra=None)


@pytest.fixture
def made(tmp_path: Path, make_records: Make, write_suite: Write) -> Shown:
    found = shown(write_suite(tmp_path / "made", make_records(4)))
    return Shown(replace(found.own, verdicts=list(verdicts()), samples=list(samples())))


@pytest.mark.thorough
def test_every_figure_is_drawn_and_again_with_the_same_bytes(made: Shown) -> None:
    first = dict(drawn(made, ("svg", "pdf")))
    names = {name.rpartition(".")[0] for name in first}
    assert names == {
        "attacks",
        "summary",
        "acc-asr",
        "matrix",
        "pareto",
        "ranks",
        "oracle",
        "roc",
        "scores",
        "roc-inputs",
        "roc-training-set",
    }
    assert dict(drawn(Shown(made.own), ("svg", "pdf"))) == first
    for name, content in first.items():
        if name.endswith(".svg"):
            ElementTree.fromstring(content)
            assert b"Matplotlib v" not in content
        assert not any(stamp in content for stamp in (b"CreationDate", b"dc:date", b"http://matplotlib"))


def test_a_curve_of_single_images_is_the_mean_over_victims_whose_attack_took(made: Shown) -> None:
    """At 0.2 false positives one victim has found all of them and the other a third; the third victim's attack failed."""
    figure = roc_inputs(made)
    assert figure is not None
    (curve,) = [line for line in figure.axes[0].lines if line.get_label().startswith("sieve")]
    assert curve.get_label() == "sieve  0.80"
    found = dict(zip(*(value.round(4).tolist() for value in curve.get_data()), strict=True))
    assert found[0.2] == pytest.approx(2 / 3, abs=1e-3)


def test_the_callers_own_style_stays_as_it_is(made: Shown) -> None:
    before = dict(matplotlib.rcParams)
    list(drawn(made, ("svg",), only="acc-asr"))
    assert dict(matplotlib.rcParams) == before


def test_names_are_printed_letter_by_letter(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    odd = "a$^{x_<b>&\"'"
    records = [replace(r, defense=odd if r.defense == "mnp" else r.defense, cell=r.cell[::-1]) for r in make_records(4)]
    folder = tmp_path / "odd"
    write_suite(folder, make_records(4))
    found = shown(folder)
    for _, content in drawn(Shown(replace(found.own, records=records)), ("svg",)):
        ElementTree.fromstring(content)


def test_several_data_sets_have_numbers(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    records = [*make_records(4), *(replace(r, net="other", cell=f"f{r.cell[1:]}") for r in make_records(4))]
    found = shown(write_suite(tmp_path / "two", records))
    assert sorted(name for name, _ in drawn(found, ("svg",), only="ranks")) == ["ranks-1.svg", "ranks-2.svg"]


def test_a_figure_by_its_name(made: Shown) -> None:
    assert list(one(made, "pareto", "png")) == ["pareto.png"]
    assert one(made, "pareto", "png")["pareto.png"].startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"no figure 'parto'.*Did you mean 'pareto'\?"):
        one(made, "parto", "svg")
    with pytest.raises(UserError, match="has nothing to draw for the figure 'published'"):
        one(made, "published", "svg")
    assert set(NAMES) >= {name.rpartition(".")[0] for name, _ in drawn(made, ("svg",))}


def test_a_report_draws_them_and_removes_what_it_draws_no_more(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    folder = write_suite(tmp_path / "made", make_records(4, ("none", "mnp", "ft")))
    (folder / "figures").mkdir()
    for name in ("oracle-2.svg", "mine.svg", "ranks.png"):
        (folder / "figures" / name).write_text("old")
    assert not [path for path in build_tables(folder).further if path.parent != folder], "only if asked for"
    built = build_tables(folder, figures=True)
    names = {path.name for path in built.further if path.parent.name == "figures"}
    assert names == {
        f"{name}.{kind}" for name in ("attacks", "summary", "acc-asr", "matrix", "pareto", "ranks") for kind in ("svg", "pdf")
    }
    assert {path.name for path in (folder / "figures").iterdir()} == names | {"mine.svg", "ranks.png", "drawn.json"}


def test_figures_are_drawn_again_only_when_something_changed(
    tmp_path: Path, make_records: Make, write_suite: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = make_records(4)
    folder = write_suite(tmp_path / "made", records)
    draws: list[str] = []

    def counted(made: Shown, kinds: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
        draws.append("once")
        return drawn(made, kinds, only="matrix")

    monkeypatch.setattr(build, "drawn", counted)

    def again() -> int:
        draws.clear()
        built = build_tables(folder, figures=True)
        assert len([path for path in built.further if path.parent.name == "figures"]) == 2
        return len(draws)

    assert again() == 1
    assert again() == 0
    matrix = folder / "figures/matrix.svg"
    before = matrix.read_bytes()
    matrix.write_text("edited")
    assert again() == 1
    assert matrix.read_bytes() == before
    matrix.unlink()
    assert again() == 1
    (folder / "figures/drawn.json").write_text("[]")
    assert again() == 1
    shutil.rmtree(folder)
    write_suite(folder, [replace(r, after=r.before) if r.defense == "mnp" else r for r in records])
    (folder / "figures").mkdir()
    assert again() == 1
    assert matrix.read_bytes() != before
    moved = folder.rename(tmp_path / "moved")
    assert [path.name for path in kept(moved / "figures", origin(shown(moved))) or []], "wherever the suite lies"
    monkeypatch.setattr("mnp_plugin.report.figures.kept.version", lambda package: "another")
    assert kept(moved / "figures", origin(shown(moved))) is None


def test_a_suite_of_attacks_alone_shows_what_they_do(tmp_path: Path, make_records: Make, write_suite: Write) -> None:
    records = make_records(3, ("none",), seeds=(0, 1))
    records = [
        replace(r, attack="clean", poison_ratio=None, before=no_attack(r), after=no_attack(r)) if r.attack == "attack02" else r
        for r in records
    ]
    folder = write_suite(tmp_path / "made", records)
    built = build_tables(folder, figures=True)
    assert {path.name for path in built.further if path.parent.name == "figures"} == {"attacks.svg", "attacks.pdf"}
    text = (folder / "figures/attacks.svg").read_text()
    for said in (
        "attack00 0.05",
        "attack01 0.05",
        "ASR, %",
        "ACC, %",
        "bar: standard deviation over seeds",
        "dashed: ACC of the clean net",
    ):
        assert said in text
    assert "tick: ASR of a clean net" not in text
    only_clean = write_suite(tmp_path / "clean", [r for r in records if r.attack == "clean"])
    assert not [path for path in build_tables(only_clean, figures=True).further if path.parent.name == "figures"]
    assert not (only_clean / "figures").exists(), "nothing to show"


def test_triggers_are_shown_where_pictures_were_kept(made: Shown) -> None:
    with pytest.raises(UserError, match="nothing to draw for the figure 'triggers'"):
        one(made, "triggers", "svg")
    (made.own.folder / DETAILS).mkdir()
    (made.own.folder / "pictures").mkdir()
    for record, file in zip(made.own.records, made.own.files, strict=True):
        if record.defense == "none" and record.attack != "attack03":
            (made.own.folder / "pictures/strip.png").write_bytes(written(blank(3, 1)[0], "png"))
            (made.own.folder / DETAILS / file).write_text(to_json(Details(id=record.cell, picture="strip.png")))
    text = one(made, "triggers", "svg")["triggers.svg"].decode()
    assert text.count("<image ") == 3
    assert "attack02 0.05" in text
    assert "attack03" not in text


def test_the_command_writes_one_figure(
    tmp_path: Path, make_records: Make, write_suite: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write_suite(tmp_path / "made", make_records(3))
    assert main(["figure", "ranks", "made", "--results", str(tmp_path), "--out", str(tmp_path), "--format", "svg"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'ranks.svg'}\n"
    assert (tmp_path / "ranks.svg").read_bytes().startswith(b"<?xml")
    assert main(["figure", "rank", "made", "--results", str(tmp_path)]) == 2
    assert "Did you mean 'ranks'?" in capsys.readouterr().err


def test_the_neurons_of_a_cell(made: Shown) -> None:
    with pytest.raises(UserError, match="no neurons are stored of any cell"):
        one(made, "neurons", "svg")
    values = {"magnitude": [1.0, 2.0, 9.0, 3.0, 4.0], "saliency": [1.0, 2.0, 0.1, 3.0, 4.0]}
    for record, file in zip(made.own.records, made.own.files, strict=True):
        if record.defense == "mnp":
            (made.own.folder / DETAILS).mkdir(exist_ok=True)
            details = Details(id=record.cell, layers=[["a", 3], ["b", 2]], before=values, after=values, pruned=[2])
            (made.own.folder / DETAILS / file).write_text(to_json(details))
    with pytest.raises(UserError, match="which cell"):
        one(made, "neurons", "svg")
    assert list(one(made, "neurons", "svg", "attack02-mnp")) == ["neurons-attack02-mnp-s0.svg"]


def test_z_scores_within_layers_and_over_what_is_kept() -> None:
    values = [math.e**x for x in (0, 1, 2, 10, 20, 30)]
    found = standard(values, [["a", 3], ["b", 3]])
    assert found[1] == found[4] == 0
    assert found[2] == pytest.approx(1 / 1.4826) == pytest.approx(found[5])
    kept = standard(values, [["a", 3], ["b", 3]], ~(found > 0.5))
    assert [math.isnan(value) for value in kept] == [False, False, True] * 2


def test_the_front_holds_what_no_quicker_one_reaches() -> None:
    assert front([(3, 90, "c"), (1, 50, "a"), (2, 40, "b"), (3, 95, "d")]) == [(1, 50), (3, 95)]


def test_seventy_seven_methods_look_different() -> None:
    found = looks([*USUAL, *(f"m{i:02}" for i in range(len(COLOURS) * len(MARKERS) - len(USUAL)))])
    assert len({(look.colour, look.marker) for look in found.values()}) == 77
    assert len({(look.dash, look.marker) for look in list(found.values())[:44]}) == 44, "lines, in grey"


def test_usual_methods_look_the_same_whatever_stands_beside_them() -> None:
    assert looks(["mnp", "anp"]) == {name: look for name, look in looks(["anp", "aaa", "mnp", "zzz"]).items() if name in USUAL}

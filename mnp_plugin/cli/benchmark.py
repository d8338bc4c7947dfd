"""``mnp-bench run``, ``plan`` and ``report``: the benchmark."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnp_plugin.benchmark.find import find_config, installed_suites
from mnp_plugin.cli.settings import component, ended_by_signal, engine_of
from mnp_plugin.core.deferred import torch_deferred
from mnp_plugin.core.errors import UserError, did_you_mean
from mnp_plugin.core.registries import observers

if TYPE_CHECKING:
    from mnp_plugin.benchmark.store import Store
    from mnp_plugin.benchmark.suite import Suite

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

TEXT_COLUMNS = ("dataset", "net", "attack", "defense", "selection", "flag", "clean_source")
"""Columns of ``leaderboard.csv`` that are words even where they look like numbers."""

OTHER_IMAGES = "other images"
"""State of a cell whose record was made from images that are not those of now."""


def add(verbs: Verbs) -> None:
    """Register the verbs."""
    verb = _suite_verb(verbs, "run", "train victims, apply every defense, write records and tables; finished cells are skipped")
    verb.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; several, as cuda:0,1, are spread over workers")
    verb.add_argument(
        "--engine", metavar="NAME[,KEY=VALUE...]", help="inline, processes, ray, or a plugin's (mnp-bench list engines)"
    )
    text = "jobs done at once, each in its own process"
    verb.add_argument("--jobs", "--workers", dest="workers", type=int, metavar="N", help=text)
    verb.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="run only the I-th of N parts of the victims")
    text = "which cells to run: those without a record (missing, the default), those that failed, too, or all"
    verb.add_argument("--resume", choices=("missing", "failed", "all"), default="missing", help=text)
    verb.add_argument("--log", type=Path, metavar="FILE", help="append what happens to FILE, as JSON lines")
    text = "tell a plugin what happens, such as tensorboard,folder=runs (mnp-bench list observers)"
    verb.add_argument("--observe", action="append", default=[], metavar="NAME[,KEY=VALUE...]", help=text)
    for kind in ("attacks", "defenses", "detectors"):
        verb.add_argument(f"--{kind}", nargs="+", metavar="LABEL", help=f"run only these {kind} of the suite now")
    verb.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="run only these seeds of the suite now")
    verb.add_argument("--quiet", action="store_true", help="print the table and errors, nothing else")
    verb.set_defaults(call=_run)
    verb = _suite_verb(verbs, "plan", "print the cells and verdicts of a suite and which are done, without running any")
    verb.add_argument("--json", action="store_true", help="print JSON, nothing else")
    verb.set_defaults(call=_plan)
    text = "rebuild tables, figures and page of a suite from its records"
    verb = verbs.add_parser("report", help=text, description=text)
    verb.add_argument("config", metavar="suite", nargs="?", default="digits", help="suite file, or the name of a suite")
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records and tables")
    verb.add_argument(
        "--published",
        type=Path,
        default=None,
        metavar="CSV",
        help="set published figures beside ours (see bridge import-leaderboard)",
    )
    verb.add_argument("--no-figures", action="store_true", help="draw no figures, which takes seconds")
    verb.add_argument("--json", action="store_true", help="print the rows of the table as JSON, nothing else")
    verb.add_argument("--quiet", action="store_true", help="print the table and errors, nothing else")
    verb.set_defaults(call=_report)


def _suite_verb(verbs: Verbs, name: str, text: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text)
    verb.add_argument("config", nargs="?", default="digits", help="suite file, or the name of one in benchmark_configs/")
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records and tables")
    verb.add_argument("--store", metavar="FOLDER|URL", help="cache of data and victims (default: the user's cache folder)")
    return verb


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, such as 1/4, not '{text}'")
    return int(part), int(parts)


def _run(arguments: argparse.Namespace) -> int:
    from mnp_plugin.benchmark.observers.plugin import opened
    from mnp_plugin.benchmark.runner import Runner
    from mnp_plugin.benchmark.store import open_store
    from mnp_plugin.benchmark.suite_file import load_suite
    from mnp_plugin.cli.progress import Screen
    from mnp_plugin.training.device import pick_devices

    devices = pick_devices(arguments.device)
    engine = engine_of(arguments.engine, arguments.workers, [str(device) for device in devices])
    plugins = [component(observers, text) for text in arguments.observe]
    if arguments.log is not None:
        plugins.append(component(observers, "jsonl", file=str(arguments.log)))
    suite = load_suite(find_config(arguments.config))
    store = open_store(arguments.store, arguments.results)
    workers = getattr(engine, "workers", None) or len(devices)
    with (
        ended_by_signal(),
        Screen(suite.name, workers, quiet=arguments.quiet) as screen,
        opened(screen, plugins, suite.name) as all_,
    ):
        chosen = {kind: getattr(arguments, kind) for kind in ("attacks", "defenses", "detectors", "seeds", "shard", "resume")}
        summary = Runner(suite, store, devices[0], all_, **chosen).run(engine)
        elsewhere = f", {summary.elsewhere} by other runs" if summary.elsewhere else ""
        screen.say(f"{summary.ran} cells run{elsewhere}, {summary.skipped} done before, {len(summary.failed)} failed")
        if summary.failed_before:
            screen.say(f"{summary.failed_before} cells failed before; --resume failed tries them again")
        if summary.vanished:
            screen.say(f"{summary.vanished} records are gone from {arguments.results / suite.name}; run again, it takes seconds")
    damaged = _tables(arguments.results / suite.name, quiet=arguments.quiet)
    return 1 if damaged or summary.failed or summary.failed_before or summary.vanished else 0


def _plan(arguments: argparse.Namespace) -> int:
    with torch_deferred():
        return _show_plan(arguments)


def _show_plan(arguments: argparse.Namespace) -> int:
    from mnp_plugin.benchmark.older import in_words, older_records
    from mnp_plugin.benchmark.outlook import Past, cost, refuse_what_does_not_fit, todo
    from mnp_plugin.benchmark.store import open_store
    from mnp_plugin.benchmark.suite_file import load_suite
    from mnp_plugin.cli.words import outlook
    from mnp_plugin.report.texts import DamagedRecordError

    suite = load_suite(find_config(arguments.config))
    store = open_store(arguments.store, arguments.results, reading=True)
    cells: list[dict[str, Any]] = []
    unsaid = 0
    for cell in suite.cells():
        record, victim = None, cell.victim
        try:
            record = store.load_record(suite.name, cell)
            state: str = record.status if record else "to do"
        except DamagedRecordError as error:
            print(error, file=sys.stderr)
            state = "damaged"
        other = record is not None and not store.current(victim, record.content)
        unsaid += record is not None and record.unsaid
        cells.append(
            {
                "state": OTHER_IMAGES if other else state,
                "cell": cell.fingerprint,
                "victim": victim.title,
                "dataset": victim.dataset.label,
                "net": victim.net.label,
                "attack": victim.attack.label,
                "seed": victim.seed,
                "defense": cell.defense.label,
                "draw": cell.draw,
            }
        )
    done = sum(cell["state"] == "ok" for cell in cells)
    verdicts = _planned_verdicts(suite, store)
    judged = sum(verdict["state"] == "ok" for verdict in verdicts)
    older = older_records(suite, store)
    jobs, past = todo(suite, store), Past.of(store)
    ahead = cost(jobs, past)
    if arguments.json:
        about = {"suite": suite.name, "victims": len(suite.victims), "done": done, "images unsaid": unsaid}
        also: dict[str, Any] = {"verdicts done": judged, "verdicts": verdicts} if verdicts else {}
        also |= {"jobs left": ahead.jobs, "seconds left": round(ahead.seconds), "bytes left": round(ahead.bytes)}
        also |= {"of older versions": [one.file for one in older]} if older else {}
        _print_json({**about, "cells": cells, **also})
        return 0
    others = sum(shown["state"] == OTHER_IMAGES for shown in (*cells, *verdicts))
    damaged = sum(shown["state"] == "damaged" for shown in (*cells, *verdicts))
    width = max(6, *(len(shown["state"]) for shown in (*cells, *verdicts)))
    for shown in cells:
        draw = f" draw {shown['draw']}" if shown["draw"] else ""
        print(f"{shown['state']:{width}}  {shown['cell']}  {shown['victim']}  ->  {shown['defense']}{draw}")
    for verdict in verdicts:
        print(f"{verdict['state']:{width}}  {verdict['verdict']}  {verdict['victim']}  ?  {verdict['detector']}")
    print(f"{len(cells)} cells on {len(suite.victims)} victims, {done} done")
    if verdicts:
        print(f"{len(verdicts)} verdicts of {len(suite.all_detectors)} detectors, {judged} done")
    if others:
        print(f"{others} records were made from other images than those there now: run makes them again")
    if damaged:
        print(f"{damaged} records are damaged: run makes them again")
    if older:
        print(in_words(older))
    if unsaid:
        print(_unsaid(unsaid))
    print(outlook(ahead))
    refuse_what_does_not_fit(jobs, past, store)
    return 0


def _planned_verdicts(suite: Suite, store: Store) -> list[dict[str, Any]]:
    """The verdicts of a suite, on nets and on single images, and their state."""
    from mnp_plugin.benchmark.jobs.samples import SampleJob, sample_jobs
    from mnp_plugin.benchmark.jobs.verdict import VerdictJob, verdict_jobs
    from mnp_plugin.report.texts import DamagedRecordError

    found = []
    jobs: list[VerdictJob | SampleJob] = [*verdict_jobs(suite, suite.victims), *sample_jobs(suite, suite.victims)]
    for job in jobs:
        record = None
        try:
            text = store.read(suite.name, job.kind, job.file_name)
            record = None if text is None else job.read(*text)
            state: str = record.status if record else "to do"
        except DamagedRecordError as error:
            print(error, file=sys.stderr)
            state = "damaged"
        other = record is not None and not store.current(job.subject, record.content)
        found.append(
            {
                "state": OTHER_IMAGES if other else state,
                "verdict": job.fingerprint,
                "victim": job.subject.title,
                "dataset": job.subject.dataset.label,
                "net": job.subject.net.label,
                "attack": job.subject.attack.label,
                "seed": job.subject.seed,
                "detector": job.detector.label,
            }
        )
    return found


def _unsaid(count: int) -> str:
    return f"{count} records, of an older version, do not say which images they were made from; they count as done"


def _report(arguments: argparse.Namespace) -> int:
    folder = arguments.results / suite_name(arguments.config, arguments.results)
    return _tables(folder, arguments.published, as_json=arguments.json, quiet=arguments.quiet, figures=not arguments.no_figures)


def _tables(
    folder: Path, published: Path | None = None, *, as_json: bool = False, quiet: bool = False, figures: bool = False
) -> int:
    """Build the tables of one suite and print them on stdout; what is said of them goes to stderr. 1 if a file is damaged."""
    from mnp_plugin.report.build import build_tables

    built = build_tables(folder, published, figures=figures)
    for sentence in built.damaged:
        print(sentence, file=sys.stderr)
    if as_json:
        rows = _rows(built.csv.read_text(encoding="utf-8"))
        about = {"suite": folder.name, "records": built.records, "left out": built.left_out, "images unsaid": built.unsaid}
        _print_json({**about, "damaged": len(built.damaged), "rows": rows})
        return 1 if built.damaged else 0
    print(built.md.read_text(encoding="utf-8"))
    if not quiet:
        if built.left_out:
            left = f"{len(built.left_out)} records of other settings or images in {built.csv.parent / 'records'} are left out"
            print(left, file=sys.stderr)
        if built.unsaid:
            print(_unsaid(built.unsaid), file=sys.stderr)
        drawn = sum(path.parent != folder for path in built.further)
        also = [path.name for path in built.further if path.parent == folder] + [f"{drawn} files in figures/"] * bool(drawn)
        print(f"{built.records} records -> {built.csv}, {', '.join([built.md.name, *also])}", file=sys.stderr)
        if built.hint:
            print(built.hint, file=sys.stderr)
    return 1 if built.damaged else 0


def suite_name(word: str, results: Path, *, started: bool = True) -> str:
    """The folder under ``results`` that is meant: by its name, by a suite file, or by the name of a suite that ships.

    ``started``: it must have records.

    Raises:
        UserError: none of these has records.
    """
    from mnp_plugin.core import params as spec

    known = [folder.parent.name for folder in results.glob("*/records")]
    if word in known:
        return word
    path = Path(word)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        if word not in installed_suites():
            raise UserError(f"no records of a suite '{word}' in {results}.{did_you_mean(word, known)}")
        path = find_config(word)
    if not path.is_file():
        raise UserError(f"no suite file {path}; give a suite file, or a folder of {results}.{did_you_mean(path.stem, known)}")
    data = spec.read_yaml(path).data
    named = data.get("suite") if isinstance(data, dict) else None
    name = named if isinstance(named, str) else path.stem
    if name not in known and started:
        raise UserError(f"no records of suite '{name}' in {results}; run it first: mnp-bench run {word}")
    return name


def _rows(text: str) -> list[dict[str, Any]]:
    """The rows of a leaderboard: numbers as numbers, null where there is no value."""

    def value(column: str, cell: str) -> Any:
        if column in TEXT_COLUMNS:
            return cell
        try:
            return json.loads(cell) if cell else None
        except ValueError:
            return cell

    return [{column: value(column, cell) for column, cell in row.items()} for row in csv.DictReader(text.splitlines())]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, allow_nan=False))

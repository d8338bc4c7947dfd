"""``mnp-bench``: run, plan, report, list, describe, check. A user's mistake is one message and exit status 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mnp_plugin.benchmark.find import find_config
from mnp_plugin.cli import anp, bridge, own_model
from mnp_plugin.core.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit status: 0 done, 1 some cells failed, 2 bad input, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.call(arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"mnp-bench: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, head for one, has seen enough; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\nmnp-bench: interrupted. Finished cells are kept; the same command goes on from here.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    import mnp_plugin

    parser = argparse.ArgumentParser(
        prog="mnp-bench", description="Train backdoor attacks, apply defenses, compare them honestly."
    )
    parser.add_argument("--version", action="version", version=f"mnp-bench {mnp_plugin.__version__}")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def suite_verb(name: str, help_text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=help_text, description=help_text)
        verb.add_argument("config", nargs="?", default="digits", help="suite file, or the name of one in benchmark_configs/")
        verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records and tables")
        verb.add_argument("--store", type=Path, default=None, help="cache of data and victims (default: the user's cache folder)")
        return verb

    verb = suite_verb("run", "train victims, apply every defense, write records and tables; finished cells are skipped")
    verb.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    verb.add_argument("--jobs", type=int, default=1, metavar="N", help="victims worked on at once, each in its own process")
    for kind in ("attacks", "defenses"):
        verb.add_argument(f"--{kind}", nargs="+", metavar="LABEL", help=f"run only these {kind} of the suite now")
    verb.set_defaults(call=_run)
    verb = suite_verb("plan", "print the cells of a suite and which are done, without running any")
    verb.set_defaults(call=_plan)
    verb = verbs.add_parser("report", help="rebuild the tables of a suite from its records")
    verb.add_argument("suite", nargs="?", default="digits", help="name of a folder under --results")
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records and tables")
    verb.add_argument(
        "--published",
        type=Path,
        default=None,
        metavar="CSV",
        help="set published figures beside ours (see bridge import-leaderboard)",
    )
    verb.set_defaults(call=_report)
    verb = verbs.add_parser("list", help="list attacks, defenses, detectors, datasets and nets, and where they come from")
    verb.set_defaults(call=_list)
    verb = verbs.add_parser("describe", help="paper, hyper-parameters and knowledge of one method")
    verb.add_argument("name")
    verb.set_defaults(call=_describe)
    verb = verbs.add_parser("check", help="run the contract test on one method, yours too")
    verb.add_argument("name")
    verb.set_defaults(call=_check)
    bridge.add(verbs)
    own_model.add(verbs)
    anp.add(verbs)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from mnp_plugin.benchmark.engines import Pool
    from mnp_plugin.benchmark.runner import Runner, inline
    from mnp_plugin.benchmark.store import Store, default_cache
    from mnp_plugin.benchmark.suite import load_suite
    from mnp_plugin.cli.progress import Screen
    from mnp_plugin.training.device import pick_device

    if arguments.jobs < 1:
        raise UserError(f"--jobs must be 1 or more, not {arguments.jobs}")
    suite = load_suite(find_config(arguments.config))
    device = pick_device(arguments.device)
    store = Store(arguments.store or default_cache(), arguments.results)
    with Screen(suite.name, arguments.jobs) as screen:
        runner = Runner(suite, store, device, screen, attacks=arguments.attacks, defenses=arguments.defenses)
        summary = runner.run(Pool(arguments.jobs) if arguments.jobs > 1 else inline)
    status = _report(argparse.Namespace(suite=suite.name, results=arguments.results, published=None))
    print(f"{summary.ran} cells run, {summary.skipped} done before, {len(summary.failed)} failed")
    return 1 if summary.failed else status


def _plan(arguments: argparse.Namespace) -> int:
    from mnp_plugin.benchmark.store import Store, default_cache
    from mnp_plugin.benchmark.suite import load_suite

    suite = load_suite(find_config(arguments.config))
    store = Store(arguments.store or default_cache(), arguments.results)
    done = 0
    cells = list(suite.cells())
    for cell in cells:
        record = store.load_record(suite.name, cell)
        state = record.status if record else "to do"
        done += state == "ok"
        print(f"{state:6}  {cell.fingerprint}  {cell.victim.title}  ->  {cell.defense.label}")
    print(f"{len(cells)} cells on {len(suite.victims)} victims, {done} done")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from mnp_plugin.report.build import build_tables

    built = build_tables(arguments.results / arguments.suite, arguments.published)
    print(built.md.read_text(encoding="utf-8"))
    if built.left_out:
        print(f"{len(built.left_out)} records of other settings in {built.csv.parent / 'records'} are left out")
    print(f"{built.records} records -> {built.csv} and {built.md}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from mnp_plugin import contracts
    from mnp_plugin.core.registry import BROKEN

    for registry in contracts.all_registries:
        print(f"{registry.kind}s:")
        for name in registry.names():
            doc = (registry.get(name).__doc__ or "").strip().splitlines()
            print(f"  {name:20} {registry.origin(name):20} {doc[0] if doc else ''}")
    for plugin, reason in BROKEN.items():
        print(f"broken plugin '{plugin}': {reason}")
    return 0


def _describe(arguments: argparse.Namespace) -> int:
    from mnp_plugin.cli.describe import describe

    print(describe(arguments.name))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from mnp_plugin.testing import ContractError, check

    try:
        for clause in check(arguments.name):
            print(f"ok  {clause}")
    except ContractError as error:
        print(f"broken: {error}", file=sys.stderr)
        return 1
    return 0

"""``mnp-bench figure`` and ``serve``: results to look at."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mnp_plugin.cli.benchmark import suite_name
from mnp_plugin.core.errors import UserError

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def add(verbs: Verbs) -> None:
    """Register the verbs."""
    defenses = "summary, acc-asr, matrix, pareto, ranks, oracle, published"
    names = f"attacks, triggers, {defenses}, roc, scores, roc-inputs, roc-training-set or neurons"
    text = f"draw one figure of a suite: {names}"
    verb = verbs.add_parser("figure", help=text, description=text)
    verb.add_argument("name", help="which figure")
    verb.add_argument("config", metavar="suite", nargs="?", default="digits", help="suite file, or the name of a suite")
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records and tables")
    verb.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where to write (default: here)")
    verb.add_argument("--format", default="pdf", choices=("pdf", "svg", "png"))
    verb.add_argument("--cell", metavar="NAME", help="for neurons: the beginning of a record's name, as badnets-mnp-s0")
    verb.add_argument("--published", type=Path, metavar="CSV", help="published figures, for the figure of that name")
    verb.set_defaults(call=_figure)
    text = "show the page of a suite at an address of this machine, and keep it fresh while the suite runs"
    verb = verbs.add_parser("serve", help=text, description=text)
    verb.add_argument("config", metavar="suite", nargs="?", default="digits", help="suite file, or the name of a suite")
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records and tables")
    verb.add_argument("--port", type=int, default=8710, help="0 takes any that is free (default: 8710)")
    verb.add_argument("--published", type=Path, metavar="CSV", help="set published figures beside ours")
    verb.set_defaults(call=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    from mnp_plugin.report.extra import hint
    from mnp_plugin.report.page.serve import LOOPBACK, Source, server

    if needed := hint():
        raise UserError(f"the page needs the extra: {needed}")
    folder = arguments.results / suite_name(arguments.config, arguments.results, started=False)
    with server(Source(folder, arguments.published), arguments.port) as running:
        try:
            print(f"{folder.name}: http://{LOOPBACK}:{running.server_address[1]}/ until you press Ctrl-C", flush=True)
            running.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def _figure(arguments: argparse.Namespace) -> int:
    from mnp_plugin.io.atomic import write_atomic
    from mnp_plugin.report.extra import hint
    from mnp_plugin.report.figures.catalogue import one
    from mnp_plugin.report.shown import shown

    if needed := hint():
        raise UserError(f"figures need the extra: {needed}")
    found = shown(arguments.results / suite_name(arguments.config, arguments.results), arguments.published)
    for name, content in one(found, arguments.name, arguments.format, arguments.cell).items():
        write_atomic(arguments.out / name, content)
        print(arguments.out / name)
    for sentence in found.own.all_damaged:
        print(sentence, file=sys.stderr)
    return 1 if found.own.all_damaged else 0

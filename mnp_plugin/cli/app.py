"""``mnp-bench``: all verbs, and what becomes of an error. A user's mistake is one sentence and exit status 2."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO

import shtab

import mnp_plugin
from mnp_plugin.cli import anp, benchmark, bridge, calibrate, grid, methods, own_model, show
from mnp_plugin.cli.settings import Ended
from mnp_plugin.core.errors import MethodError, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit status: 0 done, 1 some cells or a method failed, 2 bad input, 130 interrupted."""
    _write_anything()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _status_of(argv)


def _status_of(argv: Sequence[str] | None) -> int:
    try:
        arguments = _asked(argv)
        status: int = arguments.call(arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        return _say(str(error), 2)
    except MethodError as error:
        return _say(str(error), 1)
    except BrokenPipeError:  # the reader, head for one, has seen enough; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _say(_of_system(error), 2)
    except KeyboardInterrupt as error:
        ended = isinstance(error, Ended)
        what, status = ("ended by SIGTERM", 143) if ended else ("interrupted", 130)
        return _say(f"{what}. Finished cells are kept; the same command goes on from here.", status, before="\n")


def _asked(argv: Sequence[str] | None) -> argparse.Namespace:
    try:
        return _parser().parse_args(argv)
    finally:  # which may print and exit: a script of completion is more than a pipe holds
        sys.stdout.flush()


def _say(message: str, status: int, before: str = "") -> int:
    print(f"{before}mnp-bench: {message}", file=sys.stderr)
    return status


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A sentence, as errors are: which line of code gave the warning helps nobody who gave a command."""
    print(f"mnp-bench: warning: {message}", file=sys.stderr)


def _of_system(error: OSError) -> str:
    """One sentence with the path, for what the system refused: a full disk, a folder without permission, a name too long."""
    places = " -> ".join(str(place) for place in (error.filename, error.filename2) if place is not None)
    reason = error.strerror or str(error) or type(error).__name__
    return f"{places}: {reason}" if places else reason


def _write_anything() -> None:
    """A terminal or file that cannot show a character (cp1252, ascii) gets its escape, and no run ends for it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class _Parser(argparse.ArgumentParser):
    """Errors are one sentence and the way to the help, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mnp-bench", description="Train backdoor attacks, apply defenses, compare them honestly.")
    parser.add_argument("--version", action="version", version=f"mnp-bench {mnp_plugin.__version__}")
    shtab.add_argument_to(parser, "--print-completion", help="print a script that completes commands and options in a shell")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (benchmark, grid, show, methods, bridge, own_model, calibrate, anp):
        group.add(verbs)
    _complete_paths(parser)
    return parser


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    """Have shells complete files where an argument is a path."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in dict.fromkeys(action.choices.values()):
                _complete_paths(verb)
        elif action.type is Path or action.dest == "config":
            action.complete = shtab.FILE  # type: ignore[attr-defined]

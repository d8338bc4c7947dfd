"""The victim of a suite that a script here asks a question of: named on the command line, trained if it is not in the cache."""

from __future__ import annotations

import argparse
import sys

import torch

from mnp_plugin.benchmark.find import find_config
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store, default_cache
from mnp_plugin.benchmark.suite import VictimSpec
from mnp_plugin.benchmark.suite_file import load_suite
from mnp_plugin.core.errors import UserError


def parser(about: str | None) -> argparse.ArgumentParser:
    """A command line that names one victim of a suite."""
    names = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    names.add_argument("suite")
    names.add_argument("attack", help="label of an attack of the suite")
    names.add_argument("--seed", type=int, help="a seed of the suite; its first if not given")
    return names


def chosen(arguments: argparse.Namespace) -> tuple[Runner, VictimSpec]:
    """The victim that the command line names, and a runner that trains it or takes it from the cache; exits without one."""
    try:
        store = Store(default_cache(), default_cache())
        runner = Runner(load_suite(find_config(arguments.suite)), store, torch.device("cpu"), attacks=[arguments.attack])
    except UserError as error:
        sys.exit(f"error: {error}")
    found = [c.victim for c in runner.cells if arguments.seed in (None, c.victim.seed)]
    if not found:
        sys.exit(f"error: '{arguments.suite}' has no seed {arguments.seed}")
    if not isinstance(found[0], VictimSpec):
        sys.exit(f"error: '{arguments.attack}' is a given model; this asks about victims that a suite trains")
    return runner, found[0]

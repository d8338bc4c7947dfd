"""``mnp-bench list``, ``describe`` and ``check``: what is registered."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from mnp_plugin.core.deferred import torch_deferred

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def add(verbs: Verbs) -> None:
    """Register the verbs."""
    text = "list attacks, defenses, detectors, datasets, nets and victim sources, and where they come from"
    verb = verbs.add_parser("list", help=text, description=text)
    verb.add_argument("kind", nargs="?", metavar="KIND", help="attacks, defenses, ...: only these")
    verb.add_argument("--json", action="store_true", help="print JSON, nothing else")
    verb.set_defaults(call=_list)
    text = "paper and hyper-parameters of one method, and what it may see"
    verb = verbs.add_parser("describe", help=text, description=text)
    verb.add_argument("name")
    verb.set_defaults(call=_describe)
    text = "run the contract test on one method, yours too"
    verb = verbs.add_parser("check", help=text, description=text)
    verb.add_argument("name")
    verb.set_defaults(call=_check)


def _list(arguments: argparse.Namespace) -> int:
    from mnp_plugin.core.errors import UserError, did_you_mean
    from mnp_plugin.core.registries import all_registries
    from mnp_plugin.core.registry import BROKEN

    registries = {registry.plural: registry for registry in all_registries}
    if arguments.kind is not None:
        kind = arguments.kind.replace("_", " ").replace("-", " ")
        chosen = kind if kind in registries else f"{kind}s"
        if chosen not in registries:
            raise UserError(f"'{arguments.kind}' is no kind of method.{did_you_mean(kind, registries)}")
        registries = {chosen: registries[chosen]}
    found: dict[str, list[dict[str, str]]] = {}
    for plural, registry in registries.items():
        found[plural] = []
        for name in registry.names():
            try:
                found[plural].append({"name": name, "origin": registry.origin(name), "summary": registry.summary(name)})
            except UserError:  # a plugin that cannot be loaded; it stands among the broken ones now
                continue
    if arguments.json:
        print(json.dumps({**found, "broken plugins": dict(BROKEN)}, indent=1))
        return 0
    for plural, rows in found.items():
        print(f"{plural}:")
        for row in rows:
            more = "" if row["summary"].endswith(".") else " ..."  # the sentence goes on in the next line of the docstring
            print(f"  {row['name']:20} {row['origin']:20} {row['summary']}{more}")
    for plugin, reason in BROKEN.items():
        print(f"broken plugin '{plugin}': {reason}")
    return 0


def _describe(arguments: argparse.Namespace) -> int:
    with torch_deferred():
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

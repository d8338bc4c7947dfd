"""``mnp-bench bridge``: install, uninstall, export, import-leaderboard."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def add(verbs: Verbs) -> None:
    """Register the verbs."""
    text = "work with BackdoorBench: our methods in its checkouts, our victims as its records, its published figures"
    group = verbs.add_parser("bridge", help=text, description=text)
    inner = group.add_subparsers(required=True, metavar="ACTION")
    for name, text, call in (
        ("install", "add our scripts and configurations to a BackdoorBench checkout", _install),
        ("uninstall", "take them away again", _uninstall),
    ):
        verb = inner.add_parser(name, help=text, description=text)
        verb.add_argument("--root", type=Path, required=True, help="the checkout")
        verb.set_defaults(call=call)
    text = "write a trained victim as a record that BackdoorBench's scripts read"
    verb = inner.add_parser("export", help=text, description=text)
    verb.add_argument("config", help="suite file, or the name of one in benchmark_configs/")
    verb.add_argument("--attack", required=True, metavar="LABEL", help="label of the attack in the suite")
    verb.add_argument("--seed", type=int, default=None, help="seed of the victim (default: the suite's first)")
    verb.add_argument("--out", type=Path, required=True, help="new folder, record/<name> in a checkout")
    verb.add_argument("--store", metavar="FOLDER|URL", help="cache of data and victims (default: the user's cache folder)")
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records and tables")
    verb.set_defaults(call=_export)
    text = "copy published cells (dataset,poison_ratio,model,attack,defense,acc,asr,ra) for mnp-bench report --published"
    verb = inner.add_parser("import-leaderboard", help=text, description=text)
    verb.add_argument("csv", type=Path)
    verb.add_argument("--out", type=Path, default=Path("results/published"), help="folder to write to")
    text = "keep only such cells, for instance dataset=cifar10 model=PreActResNet-18 poison_ratio=0.05"
    verb.add_argument("--only", nargs="+", default=[], metavar="COLUMN=VALUE", help=text)
    verb.set_defaults(call=_import)


def _install(arguments: argparse.Namespace) -> int:
    from mnp_plugin.integrations.backdoorbench.install import install

    written = install(arguments.root)
    for name in written:
        print(f"wrote {arguments.root / name}")
    print(f"{len(written)} files written" if written else "installed already; nothing to do")
    return 0


def _uninstall(arguments: argparse.Namespace) -> int:
    from mnp_plugin.integrations.backdoorbench.install import uninstall

    print(f"{len(uninstall(arguments.root))} files removed from {arguments.root}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from mnp_plugin.benchmark.find import find_config
    from mnp_plugin.benchmark.store import open_store
    from mnp_plugin.benchmark.suite_file import load_suite
    from mnp_plugin.integrations.backdoorbench.export import export_victim

    suite = load_suite(find_config(arguments.config))
    store = open_store(arguments.store, arguments.results)
    scores = export_victim(suite, arguments.attack, arguments.seed, store, arguments.out)
    rates = ", ".join(f"{k.upper()} {100 * v:.2f} %" for k, v in vars(scores).items() if v is not None)
    print(f"wrote {arguments.out}: {rates} on its 8-bit pictures")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from mnp_plugin.integrations.backdoorbench.published import import_leaderboard

    only = dict(text.partition("=")[::2] for text in arguments.only)
    path, cells, figures = import_leaderboard(arguments.csv, arguments.out, only)
    print(f"{cells} published cells, {figures} with figures -> {path}")
    return 0

"""``mnp-bench status``, ``gc`` and ``verify``: what a large run has done, needs and is worth."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnp_plugin.benchmark.find import find_config, installed_suites
from mnp_plugin.core.deferred import torch_deferred
from mnp_plugin.core.errors import UserError

if TYPE_CHECKING:
    from mnp_plugin.benchmark.store import Store

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def add(verbs: Verbs) -> None:
    """Register the verbs."""
    text = "say what of a suite is done, running, failed (and why) and missing, and how long the rest takes"
    verb = verbs.add_parser("status", help=text, description=text)
    verb.add_argument("config", nargs="?", default="digits", help="suite file, or the name of one in benchmark_configs/")
    verb.add_argument("--json", action="store_true", help="print JSON, nothing else")
    _places(verb)
    verb.set_defaults(call=_status)
    text = "list files of the store that no suite needs; with --delete, remove them"
    verb = verbs.add_parser("gc", help=text, description=f"{text}. Records and data sets are never touched.")
    verb.add_argument("suites", nargs="*", help="the suites whose files stay (default: all in benchmark_configs/)")
    verb.add_argument("--delete", action="store_true", help="remove them; without it nothing is changed")
    _places(verb)
    verb.set_defaults(call=_gc)
    text = "check every checksum of the store and of a suite's results, and measure some cells again"
    verb = verbs.add_parser("verify", help=text, description=f"{text}. Writes nothing.")
    verb.add_argument("config", nargs="?", default="digits", help="suite file, or the name of one in benchmark_configs/")
    verb.add_argument("--sample", type=int, default=3, metavar="N", help="cells to measure again")
    verb.add_argument("--seed", type=int, default=0, help="which ones")
    verb.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    _places(verb)
    verb.set_defaults(call=_verify)


def _places(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records and tables")
    verb.add_argument("--store", metavar="FOLDER|URL", help="cache of data and victims (default: the user's cache folder)")


def _store(arguments: argparse.Namespace) -> Store:
    from mnp_plugin.benchmark.store import open_store

    return open_store(arguments.store, arguments.results, reading=True)


def _status(arguments: argparse.Namespace) -> int:
    with torch_deferred():
        found = _found(arguments)
    if arguments.json:
        print(json.dumps(found, indent=1, allow_nan=False))
        return 0
    for kind, counts in found["records"].items():
        print(f"{kind}: {', '.join(f'{count} {state}' for state, count in counts.items()) or 'none planned'}")
    for reason, count in found["failed"].items():
        print(f"failed {count} x: {reason}")
    for sentence in found["damaged"]:
        print(f"missing: {sentence}; run makes it anew")
    for one in found["running"]:
        silent = f", no sign of life for {one['seconds']:.0f} s" if one["silent"] else ""
        print(f"running: {one['title']}  ({one['host']}, process {one['pid']}{silent})")
    print(found["left"])
    return 0


def _found(arguments: argparse.Namespace) -> dict[str, Any]:
    from mnp_plugin.benchmark.locks import LEASE
    from mnp_plugin.benchmark.outlook import Past, cost, todo
    from mnp_plugin.benchmark.plan import plan, recorded_jobs
    from mnp_plugin.benchmark.suite_file import load_suite

    suite, store = load_suite(find_config(arguments.config)), _store(arguments)
    records: dict[str, Counter[str]] = {}
    failed: Counter[str] = Counter()
    for job in recorded_jobs(suite):
        kept = job.settled(store)
        state = "missing" if kept is None else {"ok": "done"}.get(kept.facts["record"].status, "failed")
        records.setdefault(job.kind, Counter())[state] += 1
        if kept is not None and state == "failed":
            failed[kept.facts["record"].reason] += 1
    holders = {holder.name: holder for holder in store.locks.holders()}
    running = [
        {"title": job.title, "kind": job.kind, "host": h.host, "pid": h.pid, "seconds": h.seconds, "silent": h.seconds > LEASE}
        for job in plan(suite)
        if (h := holders.get(job.lock_name(store))) is not None
    ]
    jobs = todo(suite, store)
    about = cost(jobs, Past.of(store))
    from mnp_plugin.cli.words import outlook

    return {
        "suite": suite.name,
        "records": {kind: dict(sorted(counts.items())) for kind, counts in records.items()},
        "failed": dict(failed.most_common()),
        "damaged": [f"{path} {fault}" for path, fault in store.damaged.items()],
        "running": running,
        "jobs left": about.jobs,
        "seconds left": round(about.seconds),
        "left": outlook(about, max(sum(not one["silent"] for one in running), 1)),
    }


def _gc(arguments: argparse.Namespace) -> int:
    from mnp_plugin.benchmark.outlook import in_words

    with torch_deferred():
        from mnp_plugin.benchmark.care import unneeded
        from mnp_plugin.benchmark.suite_file import load_suite

        files = [find_config(name) for name in arguments.suites] or list(installed_suites().values())
        if not files:
            raise UserError("no suite is known here, so everything would go; name the suites whose files stay")
        store = _store(arguments)
        if store.remote is not None:
            raise UserError(f"gc removes files of folders; those at {arguments.store} are removed with the tools of that place")
        found = unneeded(store, [load_suite(file) for file in files])
    size = sum(file.stat().st_size for file in found)
    for file in found:
        if arguments.delete:
            file.unlink(missing_ok=True)
        print(file)
    what = "removed" if arguments.delete else "would go; add --delete to remove them"
    print(f"{len(found)} files, {in_words(size)}, that none of {len(files)} suites needs: {what}", file=sys.stderr)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from mnp_plugin.benchmark.care import damaged, measured_again
    from mnp_plugin.benchmark.suite_file import load_suite
    from mnp_plugin.cli.progress import Screen
    from mnp_plugin.training.device import pick_device

    suite, store, device = load_suite(find_config(arguments.config)), _store(arguments), pick_device(arguments.device)
    if store.remote is not None:
        store.remote.fetch_all()
    bad = list(damaged(store, suite))
    for sentence in bad:
        print(f"damaged: {sentence}")
    with Screen(suite.name) as screen:
        again = measured_again(store, suite, device, arguments.sample, screen, arguments.seed)
    for one in again:
        if one.measured is None:
            print(f"not kept any more, cannot be measured again: {one.title}")
        elif one.same:
            print(f"the same: {one.title}")
        else:
            print(f"differs: {one.title}: recorded {vars(one.recorded)} on {one.hardware}, now {vars(one.measured)}")
    differ = sum(one.measured is not None and not one.same for one in again)
    print(f"{len(bad)} damaged files; {len(again)} cells measured again, {differ} differ")
    return 1 if bad or differ else 0

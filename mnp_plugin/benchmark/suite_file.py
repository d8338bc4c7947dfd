"""A suite from its file: YAML text -> everything resolved. Trains nothing, and reads no data but what ``victims`` names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mnp_plugin.benchmark.suite import AnyVictim, Entry, Gate, GivenSpec, Suite, VictimSpec
from mnp_plugin.benchmark.sweep import expanded, replaced
from mnp_plugin.contracts import (
    Component,
    Recipe,
    attacks,
    datasets,
    defenses,
    detectors,
    nets,
    sample_detectors,
    victim_sources,
)
from mnp_plugin.core import params as spec
from mnp_plugin.core.errors import UserError, did_you_mean
from mnp_plugin.core.params import Document
from mnp_plugin.core.registry import Registry
from mnp_plugin.data.split import CleanBudget
from mnp_plugin.evaluation.trials import TRIALS

K = TypeVar("K", bound=Component)

RESERVED = ("clean", "none")
"""Labels that tables give a meaning to: the unattacked model and the row without a defense."""

MAX_DRAWS = 1000
"""Most runs of a defense on one victim; a mistyped number must not make a plan without end."""
MAX_SEEDS = 1000
"""Most seeds of a suite or an attack, likewise."""

KEYS = (
    "suite",
    "dataset",
    "net",
    "recipe",
    "clean_budget",
    "gate",
    "seeds",
    "attacks",
    "victims",
    "defenses",
    "detectors",
    "sample_detectors",
    "trials",
    "draws",
    "calibration_seeds",
)
REQUIRED = ("dataset", "net", "clean_budget", "attacks", "defenses")
REQUIRED_OF_GIVEN = ("clean_budget", "defenses")
"""What a suite needs that trains nothing and takes all its ``victims`` from elsewhere."""


LONGEST = 80
"""Bytes of a name or label: a file is named after two of them, a trial and a fingerprint, and file systems take 255."""


def load_suite(path: Path) -> Suite:
    """Read and resolve a suite file.

    Raises:
        UserError: missing file, unknown name or key, wrong type, value out of range; with file and line.
    """
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.yaml") if p.is_file()) if path.parent.is_dir() else []
        raise UserError(f"no suite file {path}.{did_you_mean(str(path), near)}")
    return _suite(spec.read_yaml(path), path.stem)


def parse_suite(text: str, source: str, default_name: str) -> Suite:
    """Resolve the text of a suite; see :func:`load_suite`."""
    return _suite(spec.parse_yaml(text, source), default_name)


def _suite(document: Document, default_name: str) -> Suite:
    data = document.data
    if not isinstance(data, dict):
        raise document.error((), f"a suite is a mapping with the keys {', '.join(KEYS)}")
    for key in data:
        if key not in KEYS:
            raise document.error((key,), f"unknown key '{key}'.{did_you_mean(key, KEYS)}")
    trains = "attacks" in data or "victims" not in data
    for key in REQUIRED if trains else REQUIRED_OF_GIVEN:
        if key not in data:
            raise document.error((), f"the key '{key}' is missing")
    name = data.get("suite", default_name)
    if not isinstance(name, str) or not name.replace("-", "_").replace(".", "_").isidentifier() or name.startswith("."):
        raise document.error(("suite",), f"must be a plain name (letters, digits, '-', '_', '.'), not {name!r}")
    if too_long := _too_long(name):
        raise document.error(("suite",), too_long)
    points = list(expanded(document))
    document = points[0][0]  # but for what is swept for the whole suite they are all alike
    gate = spec.build(Gate, document, ("gate",)) if "gate" in data else Gate()
    victims: list[AnyVictim] = []
    for point, words in points:
        victims += _victims(point, words, trains)
    _told_apart(document, victims)
    columns = _entries(document, "defenses", defenses, also=("draws",))
    draws = {entry.label: _draws(document, i, entry.label) for i, entry in enumerate(columns)}
    return Suite(
        name=name,
        gate=gate,
        victims=tuple(victims),
        defenses=columns,
        draws=draws,
        detectors=_entries(document, "detectors", detectors) if "detectors" in data else (),
        sample_detectors=_entries(document, "sample_detectors", sample_detectors) if "sample_detectors" in data else (),
        trials=_trials(document),
        calibration_seeds=_calibration_seeds(document, {victim.seed for victim in victims}),
    )


def _victims(document: Document, words: Mapping[str, str], trains: bool) -> list[AnyVictim]:
    """The victims of one combination of what is swept for the whole suite; ``words`` tell it from others."""
    data = document.data
    seeds = _seeds(document, ("seeds",)) if "seeds" in data else [0]
    recipe = spec.build(Recipe, document, ("recipe",)) if "recipe" in data else Recipe()
    budget = spec.build(CleanBudget, document, ("clean_budget",))
    victims: list[AnyVictim] = []
    if trains:
        dataset = _told(_entry(document, ("dataset",), datasets), "dataset", words)
        net = _told(_entry(document, ("net",), nets), "net", words)
        rows = _entries(document, "attacks", attacks, also=("recipe", "seeds"))
        recipes = [_recipe_of(document, i, recipe) for i in range(len(rows))]
        seeds_of = [_seeds_of(document, i, seeds) for i in range(len(rows))]
        victims += [
            VictimSpec(dataset=dataset, net=net, recipe=own, budget=budget, attack=attack, seed=seed)
            for seed in dict.fromkeys([*seeds, *(one for own in seeds_of for one in own)])
            for attack, own, asked in zip(rows, recipes, seeds_of, strict=True)
            if seed in asked
        ]
    if "victims" in data:
        taken = {victim.attack.label for victim in victims}
        victims += _given(document, taken, seeds, recipe, budget)
    return victims


def _told_apart(document: Document, victims: list[AnyVictim]) -> None:
    """Refuse victims of the same names: tables would take them for runs of one."""
    seen: set[tuple[Any, ...]] = set()
    for victim in victims:
        names = (victim.dataset.label, victim.net.label, victim.attack.label, victim.seed)
        if names in seen:
            what = "sweep settings that have names of their own, or give the swept nets and data sets different labels"
            raise document.error((), f"two points of a sweep are both called '{victim.title}'; {what}")
        seen.add(names)


def _told(entry: Entry[K], key: str, words: Mapping[str, str]) -> Entry[K]:
    """``entry`` under a label that says which combination of a sweep it belongs to."""
    if key not in words:
        return entry
    return Entry(f"{entry.label}-{words[key]}", entry.component)


def _too_long(name: str) -> str:
    """What is wrong with a name or label of which files are named; empty if nothing is."""
    size = len(name.encode())
    return f"must be at most {LONGEST} bytes long, not {size}: files are named after it" if size > LONGEST else ""


def _draws(document: Document, index: int, label: str) -> int:
    """How often a defense is run on each victim: as its entry says, or else the suite; no defense always once."""
    entry = document.data["defenses"][index]
    own = isinstance(entry, dict) and "draws" in entry
    path: tuple[Any, ...] = ("defenses", index, "draws") if own else ("draws",)
    draws = entry["draws"] if own else document.data.get("draws", 1)
    if type(draws) is not int or not 1 <= draws <= MAX_DRAWS:
        raise document.error(path, f"must be a whole number from 1 to {MAX_DRAWS}, not {draws!r}")
    if label == "none" and own and draws > 1:
        raise document.error(path, "without a defense every draw is the same; leave 'draws' out here")
    return 1 if label == "none" else draws


def _trials(document: Document) -> tuple[str, ...]:
    asked = document.data.get("trials", [])
    if asked == "all":
        return tuple(TRIALS)
    if not isinstance(asked, list) or any(not isinstance(name, str) for name in asked):
        raise document.error(("trials",), f"must be 'all' or a list such as [{', '.join(TRIALS)}], not {asked!r}")
    for i, name in enumerate(asked):
        if name not in TRIALS:
            raise document.error(("trials", i), f"no trial is called '{name}'.{did_you_mean(name, TRIALS)}")
        if name in asked[:i]:
            raise document.error(("trials", i), f"'{name}' stands twice; remove one")
    return tuple(asked)


def _given(document: Document, taken: set[str], seeds: list[int], recipe: Recipe, budget: CleanBudget) -> list[GivenSpec]:
    """The victims of every source under ``victims``: the source's name with a path, or with a mapping of its settings."""
    items = document.data["victims"]
    if not isinstance(items, dict) or not items:
        raise document.error(("victims",), f"must map a source to its path, such as {victim_sources.names()[0]}: PATH")
    found: list[GivenSpec] = []
    for name, value in items.items():
        try:
            cls = victim_sources.get(name)
        except UserError as error:
            raise document.error(("victims", name), str(error)) from None
        settings = {"path": value} if isinstance(value, str) else value
        resolved = Document(replaced(document.data, ("victims", name), settings), document.lines, document.source)
        source = spec.build(cls, resolved, ("victims", name))
        try:
            offers = source.offers()
        except UserError as error:
            raise document.error(("victims", name), str(error)) from None
        for offer in offers:
            if offer.label in taken or offer.label in RESERVED:
                raise document.error(("victims", name), f"'{offer.label}' stands twice; rename the folder or the attack's label")
            if too_long := _too_long(offer.label):
                raise document.error(("victims", name), f"'{offer.label}' {too_long}; rename the folder")
            taken.add(offer.label)
        drawn = replace(budget, source="training")
        found += [
            GivenSpec(source=name, version=cls.version, offer=offer, recipe=recipe, budget=drawn, seed=seed)
            for seed in seeds
            for offer in offers
        ]
    return found


def _seeds(document: Document, path: tuple[Any, ...]) -> list[int]:
    seeds = spec.value_at(document, path)
    if not isinstance(seeds, list) or not seeds or any(type(s) is not int or s < 0 for s in seeds):
        raise document.error(path, f"must be a list of whole numbers from 0, such as [0, 1, 2], not {seeds!r}")
    if len(seeds) > MAX_SEEDS:
        raise document.error(path, f"has {len(seeds)} seeds, more than the {MAX_SEEDS} that a suite may have")
    if len(set(seeds)) != len(seeds):
        raise document.error(path, "a seed stands twice; remove one")
    return seeds


def _seeds_of(document: Document, index: int, seeds: list[int]) -> list[int]:
    """The seeds of one attack: those of its entry, or else of the suite."""
    entry = document.data["attacks"][index]
    own = isinstance(entry, dict) and "seeds" in entry
    return _seeds(document, ("attacks", index, "seeds")) if own else seeds


def _calibration_seeds(document: Document, known: set[int]) -> tuple[int, ...]:
    """The seeds whose nets are for calibrating detectors; some must be left to test on."""
    path = ("calibration_seeds",)
    if path[0] not in document.data:
        return ()
    asked = _seeds(document, path)
    if missing := sorted(set(asked) - known):
        raise document.error(path, f"the suite has no seed {missing[0]}; it has {', '.join(map(str, sorted(known)))}")
    if not known - set(asked):
        raise document.error(path, "they are all the seeds of the suite; leave some to test on")
    return tuple(asked)


def _recipe_of(document: Document, index: int, recipe: Recipe) -> Recipe:
    """The recipe of one attack: the suite's, with what the entry's own ``recipe`` says instead."""
    entry = document.data["attacks"][index]
    if not isinstance(entry, dict) or "recipe" not in entry:
        return recipe
    path = ("attacks", index, "recipe")
    if not isinstance(entry["recipe"], dict):
        raise document.error(path, f"must be a mapping of settings, not {entry['recipe']!r}")
    merged = {**(document.data.get("recipe") or {}), **entry["recipe"]}
    return spec.build(Recipe, Document(replaced(document.data, path, merged), document.lines, document.source), path)


def _entries(document: Document, key: str, registry: Registry[K], also: tuple[str, ...] = ()) -> tuple[Entry[K], ...]:
    items = document.data[key]
    if not isinstance(items, list) or not items:
        raise document.error((key,), f"must be a list of {registry.kind}s, such as [{', '.join(registry.names()[:2])}]")
    entries = tuple(_entry(document, (key, i), registry, also) for i in range(len(items)))
    for i, entry in enumerate(entries):
        if entry.label in {e.label for e in entries[:i]}:
            raise document.error((key, i), f"'{entry.label}' stands twice; give one of them a 'label'")
    return entries


def _entry(document: Document, path: tuple[Any, ...], registry: Registry[K], also: tuple[str, ...] = ()) -> Entry[K]:
    value = spec.value_at(document, path)
    if isinstance(value, bool) or value is None:
        raise document.error(path, f"must be the name of {registry.noun}, not {value!r} (put the word in quotes)")
    if isinstance(value, str):
        value = {"name": value}
        document = Document(replaced(document.data, path, value), document.lines, document.source)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise document.error(path, f"must be the name of {registry.noun}, or a mapping with a 'name'")
    try:
        cls = registry.get(value["name"])
    except UserError as error:
        raise document.error((*path, "name"), str(error)) from None
    component = spec.build(cls, document, path, skip=("name", "label", *also))
    label = value.get("label", value["name"])
    if not isinstance(label, str) or not label or not all(c.isalnum() or c in "-_.=" for c in label):
        raise document.error((*path, "label"), f"must be letters, digits, '-', '_', '.' and '=', not {label!r}")
    if too_long := _too_long(label):
        raise document.error((*path, "label"), too_long)
    if label != value["name"] and (label in RESERVED or value["name"] in RESERVED):
        raise document.error((*path, "label"), "'clean' and 'none' keep their own labels, and no other may take them")
    return Entry(label, component)

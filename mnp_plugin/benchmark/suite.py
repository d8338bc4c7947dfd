"""A suite and what it is made of: victims, cells. Values only; :mod:`mnp_plugin.benchmark.suite_file` reads one from its file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from torch import nn

from mnp_plugin.contracts import (
    Asset,
    Attack,
    Component,
    Dataset,
    Defense,
    Detector,
    GivenVictim,
    ImageData,
    Net,
    Recipe,
    SampleDetector,
    TrainingSetDefense,
    VictimOffer,
    attacks,
    param,
)
from mnp_plugin.core import params as spec
from mnp_plugin.data.split import CleanBudget
from mnp_plugin.nets import build_net

K = TypeVar("K", bound=Component)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """When an attack counts as taken; below it the row is flagged and left out of means."""

    asr: float = param(0.8, "least ASR before defense", low=0, high=1)

    def __post_init__(self) -> None:
        spec.check(self)


@dataclass(frozen=True)
class Entry(Generic[K]):
    """A component of the suite under the label that tables show."""

    label: str
    component: K

    def plain(self) -> dict[str, Any]:
        """Resolved mapping."""
        return spec.to_plain(self.component)


class Identified(ABC):
    """What is known by all that determines it."""

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """Resolved mapping, JSON-ready."""

    @cached_property
    def fingerprint(self) -> str:
        """Identity: hash of :meth:`plain`."""
        return spec.fingerprint(self.plain())


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """What a victim is made from: its data and net, and either how to train it or the victim as it was given."""

    data: ImageData
    fresh_net: Callable[[], nn.Module]
    spec: VictimSpec | None = None
    given: GivenVictim | None = None


@dataclass(frozen=True, kw_only=True)
class VictimSpec(Identified):
    """All that determines a trained victim."""

    dataset: Entry[Dataset]
    net: Entry[Net]
    recipe: Recipe
    budget: CleanBudget
    attack: Entry[Attack]
    seed: int

    def plain(self) -> dict[str, Any]:
        """Resolved mapping; its fingerprint is the victim's identity."""
        return {
            "dataset": self.dataset.plain(),
            "net": self.net.plain(),
            "recipe": spec.to_plain(self.recipe),
            "clean_budget": spec.to_plain(self.budget),
            "attack": self.attack.plain(),
            "seed": self.seed,
        }

    @property
    def title(self) -> str:
        """One short line for people."""
        return f"{self.dataset.label}/{self.net.label} {self.attack.label} seed {self.seed}"

    kept: ClassVar[bool] = True
    """Whether the store keeps it."""

    @property
    def has_training_set(self) -> bool:
        """Whether there is one training set, poisoned or not, that it was trained on."""
        return self.attack.component.alters_data

    @property
    def poison_ratio(self) -> float | None:
        """Share of the training images (clean-label: of the target class) that carry the trigger; None without one."""
        return self.attack.component.poison_ratio if self.attack.component.has_trigger else None

    @property
    def split_identity(self) -> Any:
        """What the division of its data is seeded by, beside the seed."""
        return self.dataset.plain()

    @property
    def clean_twin(self) -> VictimSpec | None:
        """The clean model of the same data, net, recipe and seed, where the attack requires it."""
        return clean_twin(self) if self.attack.component.requires().clean_net else None

    @property
    def assets(self) -> tuple[tuple[VictimSpec, Asset], ...]:
        """The assets that the attack requires, each with the victim whose data, net, recipe and seed it has."""
        return tuple((self, asset) for asset in self.attack.component.requires().assets)

    @property
    def trigger(self) -> Attack | None:
        """What puts its trigger on images that carry none; None where there is no trigger."""
        return self.attack.component if self.attack.component.has_trigger else None

    def load(self, cache: Path, loaded: dict[str, ImageData]) -> Source:
        """Its data, from ``loaded`` if they are there, and its net."""
        key, net = str(self.dataset.plain()), self.net.component
        if key not in loaded:
            loaded[key] = self.dataset.component.load(cache)
        return Source(data=loaded[key], fresh_net=partial(build_net, net, loaded[key]), spec=self)

    def content(self, cache: Path) -> str:
        """What :meth:`Dataset.content` says of its images. No part of its identity: seeds stay what the settings make them."""
        return self.dataset.component.content(cache)


def clean_twin(victim: VictimSpec) -> VictimSpec:
    """The clean model of the same data, net, recipe and seed: the source model of attacks that need one."""
    return replace(victim, attack=Entry("clean", attacks.get("clean")()))


@dataclass(frozen=True)
class Named:
    """What tables show of a thing that no component here made."""

    label: str


@dataclass(frozen=True, kw_only=True)
class GivenSpec(Identified):
    """A victim made elsewhere, and all that determines the numbers of its cells.

    Its clean budget is drawn from its training set, because nothing of that was held out where it was made.
    """

    source: str
    version: int
    offer: VictimOffer
    recipe: Recipe
    budget: CleanBudget
    seed: int

    def plain(self) -> dict[str, Any]:
        """Resolved mapping; its fingerprint is the victim's identity, wherever it lies."""
        return {
            "victim": {"name": self.source, "version": self.version, **self.offer.identity},
            "recipe": spec.to_plain(self.recipe),
            "clean_budget": spec.to_plain(self.budget),
            "seed": self.seed,
        }

    @property
    def dataset(self) -> Named:
        """Its data in tables."""
        return Named(self.offer.dataset)

    @property
    def net(self) -> Named:
        """Its net in tables."""
        return Named(self.offer.net)

    @property
    def attack(self) -> Named:
        """Its row in tables."""
        return Named(self.offer.label)

    @property
    def title(self) -> str:
        """One short line for people."""
        return f"{self.offer.dataset}/{self.offer.net} {self.offer.label} (from {self.source}) seed {self.seed}"

    kept: ClassVar[bool] = False
    """It lies where it came from, and is measured where it is needed."""
    clean_twin: ClassVar[None] = None
    has_training_set: ClassVar[bool] = False
    trigger: ClassVar[Attack | None] = None
    """Its triggered test images are all that is given of its trigger."""
    assets: ClassVar[tuple[tuple[VictimSpec, Asset], ...]] = ()

    @property
    def poison_ratio(self) -> float | None:
        """As :attr:`VictimSpec.poison_ratio`, where its source says so."""
        return self.offer.poison_ratio

    @property
    def split_identity(self) -> Any:
        """What the division of its data is seeded by, beside the seed."""
        return self.dataset.label

    def load(self, cache: Path, loaded: dict[str, ImageData]) -> Source:
        """All of it."""
        given = self.offer.load(cache)
        return Source(data=given.data, fresh_net=given.fresh_net, given=given)

    def content(self, cache: Path) -> str:
        """Nothing: its identity is that of its content already."""
        return ""


AnyVictim: TypeAlias = VictimSpec | GivenSpec


@dataclass(frozen=True, kw_only=True)
class Cell(Identified):
    """One defense on one victim."""

    victim: AnyVictim
    defense: Entry[Defense]
    draw: int = 0
    """Draws after the first divide the victim's clean budget otherwise and have another random stream."""

    def plain(self) -> dict[str, Any]:
        """Resolved mapping; its fingerprint is the cell's identity."""
        return {**self.victim.plain(), "defense": self.defense.plain(), **({"draw": self.draw} if self.draw else {})}

    @property
    def file_name(self) -> str:
        """Name of the cell's record: readable, and unique by its identity."""
        draw = f"-d{self.draw}" if self.draw else ""
        return f"{self.victim.attack.label}-{self.defense.label}-s{self.victim.seed}{draw}-{self.fingerprint}.json"

    @property
    def title(self) -> str:
        """One short line for people."""
        return f"{self.victim.title}: {self.defense.label}{f' draw {self.draw}' if self.draw else ''}"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A resolved benchmark configuration."""

    name: str
    gate: Gate
    victims: tuple[AnyVictim, ...]
    defenses: tuple[Entry[Defense], ...]
    draws: Mapping[str, int] = field(default_factory=dict)
    """How often each defense is run on a victim, by its label; once where nothing is said."""
    detectors: tuple[Entry[Detector], ...] = ()
    sample_detectors: tuple[Entry[SampleDetector], ...] = ()
    trials: tuple[str, ...] = ()
    calibration_seeds: tuple[int, ...] = ()
    """Seeds of the victims on which detectors may be calibrated; those of the others are the test."""

    @property
    def all_detectors(self) -> tuple[Entry[Detector] | Entry[SampleDetector], ...]:
        """Detectors of nets and of single images."""
        return (*self.detectors, *self.sample_detectors)

    def cells(self) -> Iterator[Cell]:
        """Every cell, victim by victim. A defense of the training set has none where there is no such set."""
        for victim in self.victims:
            for defense in self.defenses:
                if isinstance(defense.component, TrainingSetDefense) and not victim.has_training_set:
                    continue
                for draw in range(self.draws.get(defense.label, 1)):
                    yield Cell(victim=victim, defense=defense, draw=draw)

"""Every registered method passes the published contract test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mnp_plugin import contracts
from mnp_plugin.contracts import Attack, DefenderView, Defense, DefenseContext, MethodError, Purified, State
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.registry import Registry
from mnp_plugin.testing import ContractError, check

QUICK: dict[str, dict[str, Any]] = {
    "ssba": {"steps": 4, "batch_size": 4, "image_weight": 0.0},
    "input_aware": {"mask_epochs": 1},
    "lc": {"steps": 3},
    "trojannn": {"steps": 50},
    "narcissus": {"steps": 5},
    "grond": {"steps": 5},
    "refool": {"reflections": 10},
    "lf": {"images": 10, "passes": 2},
    "anp": {"iterations": 3},
    "ft": {"epochs": 2},
    "fp": {"epochs": 2, "step": 0.2},
    "nad": {"epochs": 1, "teacher_epochs": 1},
    "mnp-prune": {"suppression_steps": 2, "recover_steps": 2, "steps": 2, "probes": 1},
    "mnp": {
        "rounds": 1,
        "suppression_steps": 2,
        "recover_steps": 2,
        "restore_steps": 3,
        "mask_steps": 2,
        "draws": 1,
        "probes": 1,
        "searches": 1,
        "nulls": 1,
        "images": 8,
        "steps": 2,
    },
}
REGISTRIES = (
    contracts.attacks,
    contracts.defenses,
    contracts.detectors,
    contracts.sample_detectors,
    contracts.nets,
    contracts.datasets,
)
NAMES = sorted({name for registry in REGISTRIES for name in registry.names()})


@pytest.mark.parametrize("name", NAMES)
def test_every_registered_method(name: str, brief: dict[str, dict[str, Any]]) -> None:
    assert check(name, QUICK.get(name, brief.get(name)))


@pytest.fixture
def forget() -> Iterator[None]:
    """Undo registrations of a test."""
    before = [(r, dict(r._classes)) for r in Registry.all]
    yield
    for registry, classes in before:
        registry._classes = classes


@dataclass(frozen=True, kw_only=True)
class Base(Attack):
    """An attack that a test bends."""

    def apply(self, x: Tensor, state: State) -> Tensor:
        return 1 - x


@pytest.mark.usefixtures("forget")
def test_an_attack_that_draws_anew_each_time_is_caught() -> None:
    @contracts.attacks.register("restless")
    @dataclass(frozen=True, kw_only=True)
    class Restless(Base):
        """Noise."""

        def apply(self, x: Tensor, state: State) -> Tensor:
            return torch.rand_like(x)

    with pytest.raises(ContractError, match="same trigger twice"):
        check("restless")


@pytest.mark.usefixtures("forget")
def test_an_attack_that_writes_to_its_input_is_caught() -> None:
    @contracts.attacks.register("scribbler")
    @dataclass(frozen=True, kw_only=True)
    class Scribbler(Base):
        """Writes in place."""

        def apply(self, x: Tensor, state: State) -> Tensor:
            return x.mul_(0.5)

    with pytest.raises(MethodError, match="wrote to its input"):
        check("scribbler")


@pytest.mark.usefixtures("forget")
def test_an_attack_that_does_nothing_is_caught() -> None:
    @contracts.attacks.register("idle")
    @dataclass(frozen=True, kw_only=True)
    class Idle(Base):
        """Nothing."""

        def apply(self, x: Tensor, state: State) -> Tensor:
            return x.clone()

    with pytest.raises(ContractError, match="changes the image"):
        check("idle")


@dataclass(frozen=True, kw_only=True)
class Bent(Defense):
    """A defense that a test bends."""

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        return Purified(model=self.bend(view.model))

    def bend(self, model: nn.Module) -> nn.Module:
        return model


@pytest.mark.usefixtures("forget")
def test_a_defense_that_leaves_extra_keys_is_caught() -> None:
    @contracts.defenses.register("untidy")
    @dataclass(frozen=True, kw_only=True)
    class Untidy(Bent):
        """Leaves a mask behind."""

        def bend(self, model: nn.Module) -> nn.Module:
            model.register_buffer("mask", torch.ones(1))
            return model

    with pytest.raises(MethodError, match="bake masks into the weights"):
        check("untidy")


@pytest.mark.usefixtures("forget")
def test_a_defense_that_diverges_is_caught() -> None:
    @contracts.defenses.register("wild")
    @dataclass(frozen=True, kw_only=True)
    class Wild(Bent):
        """Makes NaN."""

        def bend(self, model: nn.Module) -> nn.Module:
            next(model.parameters()).data.fill_(float("nan"))
            return model

    with pytest.raises(MethodError, match="not finite"):
        check("wild")


@pytest.mark.usefixtures("forget")
def test_a_defense_that_ignores_its_seed_is_caught() -> None:
    @contracts.defenses.register("moody")
    @dataclass(frozen=True, kw_only=True)
    class Moody(Bent):
        """Draws from outside."""

        def bend(self, model: nn.Module) -> nn.Module:
            outside = torch.Generator()
            outside.seed()
            parameter = next(model.parameters())
            parameter.data.add_(torch.randn(parameter.shape, generator=outside))
            return model

    with pytest.raises(ContractError, match="same seed"):
        check("moody")


def test_an_unknown_name_is_the_users_error() -> None:
    with pytest.raises(UserError, match="nothing is called 'nonesuch'"):
        check("nonesuch")

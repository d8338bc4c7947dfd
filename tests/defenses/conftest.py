"""BadNets victims on digits, and one call that lets a defense treat and measures one.

Their weights are in files: trained anew they would be other nets on every processor, on which other defenses succeed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.contracts import DefenderView, Images, Purified, TrainingSetDefense, TrainingView, defenses
from mnp_plugin.data.digits import Digits
from mnp_plugin.evaluation.measure import measure
from mnp_plugin.report.records import Scores
from mnp_plugin.training.device import place

SUITE = """
dataset: {{name: digits, size: {size}}}
net: {{name: smallnet, width: {width}}}
recipe: {{epochs: 25, batch_size: 64, crop: 1, flip: false, precision: float32}}
clean_budget: {{images: 120}}
seeds: [7]
attacks: [{{name: badnets, size: {patch}, poison_ratio: 0.03}}]
defenses: [none]
"""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A treatment: scores before and after, and what the defense gave back."""

    before: Scores
    after: Scores
    result: Purified

    @property
    def weights(self) -> Tensor:
        """All that the repaired net consists of, one vector."""
        return torch.cat([value.flatten().double() for value in self.result.model.state_dict().values()])


class Patient:
    """A victim with its clean budget; ``patient(name, **settings)`` treats it.

    Args:
        cache: of the data.
        weights: what ``trained()`` gave on a Xeon with AVX-512.
        size: side of the images.
        width: of the net.
        patch: side of the trigger.
    """

    def __init__(self, cache: Path, weights: str, *, size: int, width: int, patch: int) -> None:
        self.spec = parse_suite(SUITE.format(size=size, width=width, patch=patch), "test", "test").victims[0]
        self.data = Digits(size=size).load(cache)
        self.split = stages.split_of(self.spec, self.data)
        self.victim = self.trained(load_file(Path(__file__).parent / weights))
        self.triggered = stages.triggered_test(self.spec, self.victim.state, self.split, 10)
        self.before = self.measure(self.victim.model)

    def trained(self, weights: dict[str, Tensor] | None = None) -> stages.Victim:
        """The victim with these weights; trained if there are none."""
        if weights is None:
            return stages.train_victim(self.spec, self.data, self.split, self.tools())
        tools = self.tools()
        made, model = stages.prepared(self.spec, self.data, self.split, tools), tools.fresh_net()
        model.load_state_dict(weights)
        return stages.Victim(
            model=place(model.eval(), tools.device),
            state=made.state,
            poisoned=made.poisoned,
            cover=made.cover,
            fresh_net=tools.fresh_net,
        )

    def tools(self, stream: int = 0) -> Any:
        return stages.attack_context(f"rival{stream or ''}", self.spec, self.data, torch.device("cpu"))

    def view(self, model: nn.Module | None = None) -> DefenderView:
        split = self.split
        return DefenderView(model=model or self.victim.model, clean=split.clean, validation=split.validation, num_classes=10)

    def training_set(self) -> Images:
        return stages.prepared(self.spec, self.data, self.split, self.tools()).train

    def measure(self, model: nn.Module) -> Scores:
        return measure(model, self.split.test, self.triggered)

    def __call__(
        self, name: str, *, on: nn.Module | None = None, passes: int | None = None, stream: int = 0, **settings: Any
    ) -> Outcome:
        """Treat the victim, or ``on``; ``passes``: of a net that is trained anew, in place of the suite's."""
        method, view = defenses.get(name)(**settings), self.view(on)
        if isinstance(method, TrainingSetDefense):
            view = TrainingView(**vars(view), train=self.training_set())
        tools = self.tools(stream)
        if passes is not None:
            tools = replace(tools, recipe=replace(tools.recipe, epochs=passes))
        result = method.run(view, tools)
        return Outcome(self.before, self.measure(result.model), result)


@pytest.fixture(scope="session")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcome]:
    return Patient(tmp_path_factory.mktemp("cache"), "badnets_victim.safetensors", size=16, width=12, patch=3)


@pytest.fixture(scope="session")
def small_patient(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcome]:
    """One whose treatment takes a quarter of the time, for what holds of any victim, whether a defense succeeds or not."""
    return Patient(tmp_path_factory.mktemp("cache"), "small_victim.safetensors", size=8, width=8, patch=3)

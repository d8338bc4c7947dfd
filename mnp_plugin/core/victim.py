"""Victims made elsewhere."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mnp_plugin.core.component import Component
from mnp_plugin.core.images import ImageData, Triggered
from mnp_plugin.core.params import param


@dataclass(frozen=True, eq=False, kw_only=True)
class GivenVictim:
    """A victim made elsewhere, on the CPU, ready to be measured and defended.

    Args:
        data: its clean data; ``train`` is what its training set was before poisoning.
        model: takes float32 [N, C, H, W] in [0, 1], eval mode.
        fresh_net: builds the same net untrained.
        triggered: the triggered test set; ``index`` counts in ``data.test``.
    """

    data: ImageData
    model: nn.Module
    fresh_net: Callable[[], nn.Module]
    triggered: Triggered


@dataclass(frozen=True, eq=False, kw_only=True)
class VictimOffer:
    """What is known of a victim made elsewhere before it is loaded.

    Args:
        label: its row in tables.
        dataset: label of its data in tables.
        net: label of its net in tables.
        poison_ratio: share of its training set that carries the trigger; None where nobody says.
        identity: JSON-ready, of its content and never of its place: all that determines numbers.
        load: called with the folder for downloads and decoded copies.
    """

    label: str
    dataset: str
    net: str
    poison_ratio: float | None
    identity: Mapping[str, Any]
    load: Callable[[Path], GivenVictim]


@dataclass(frozen=True, kw_only=True)
class VictimSource(Component):
    """Victims made elsewhere: a suite's ``victims`` names one and where it lies."""

    path: str = param("", "where the victims lie; ~ allowed")

    @abstractmethod
    def offers(self) -> Sequence[VictimOffer]:
        """The victims at ``path``, in a stable order, checked as far as can be done without loading their data.

        Raises:
            UserError: nothing there, or something that is not what it should be.
        """

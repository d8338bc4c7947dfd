"""A backbone."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import nn

from mnp_plugin.core.component import Component


@dataclass(frozen=True, kw_only=True)
class Net(Component):
    """A backbone."""

    @abstractmethod
    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """An untrained net that maps float32 [N, C, H, W], already normalised, to logits [N, ``num_classes``].

        Raises:
            UserError: the net cannot take images of ``shape`` (C, H, W).
        """

"""What an attack that controls training does inside the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from mnp_plugin.core.images import State


class TrainingHook(ABC):
    """What a training-control attack does inside the ordinary training loop; one object per training run."""

    augmented: ClassVar[bool] = False
    """Whether :meth:`batch` gets images that are cropped and mirrored already, so that triggers stay as they are made."""

    @abstractmethod
    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        """Change one batch, before augmentation unless ``augmented`` says otherwise.

        Args:
            x: float32 [N, C, H, W] in [0, 1]; stays as it is.
            y: int64 [N]; stays as it is.
            model: the classifier in training; its gradients and running statistics stay as they are.
            done: share of the training that lies behind, in [0, 1).

        Returns:
            Images and labels to train on; gradients may flow through the images to what made them.
        """

    def penalty(self) -> Tensor | None:
        """A scalar to add to this batch's loss, or None."""
        return None

    def stepped(self) -> None:  # noqa: B027 - optional
        """Called after every step of the classifier, its loss's gradients still in place: step own nets here."""

    def learned(self) -> State:
        """What the trigger needs and training has taught; joined to the state from ``prepare``."""
        return {}

    def saved(self) -> State | None:
        """All that :meth:`restore` needs to go on after an interruption; None (the default) if training must start anew."""
        return None

    def restore(self, state: State) -> None:  # noqa: B027 - optional
        """Go on from what :meth:`saved` gave; called before the first batch."""


class BatchShare:
    """How many images of each batch carry the trigger: ``ratio`` of them, rounded down as published.

    Where that is less than one image, one in every so many batches does; with ``exact``, what rounding leaves goes to later
    batches always. One object per training run, as hooks are.
    """

    def __init__(self, ratio: float, *, exact: bool = False) -> None:
        self.ratio, self.exact, self._owed = ratio, exact, 0.0

    def take(self, size: int) -> int:
        """The number for the next batch, of ``size`` images."""
        if self.ratio * size >= 1 and not self.exact:
            return int(self.ratio * size)
        self._owed += self.ratio * size
        whole = int(self._owed + 1e-9)  # sums of fractions fall short of whole numbers by rounding
        self._owed -= whole
        return whole

    def saved(self) -> State:
        """What :meth:`restore` needs after an interruption."""
        return {"owed": torch.tensor(self._owed, dtype=torch.float64)}

    def restore(self, state: State) -> None:
        """Go on from what :meth:`saved` gave."""
        self._owed = float(state["owed"])

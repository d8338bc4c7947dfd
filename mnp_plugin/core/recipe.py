"""How a net is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mnp_plugin.core import params as spec
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.params import param


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a net is trained: SGD with momentum, one warm-up and a linear or cosine decay to zero.

    Weight decay is on by default: magnitude-guided pruning presupposes it.
    """

    epochs: int = param(30, "passes over the training set", low=1)
    batch_size: int = param(128, "images per step", low=2)
    lr: float = param(0.1, "peak learning rate", above=0)
    momentum: float = param(0.9, "SGD momentum (Nesterov)", low=0, high=0.999)
    weight_decay: float = param(5e-4, "L2 penalty on every parameter", low=0)
    schedule: Literal["cosine", "linear"] = param("cosine", "shape of the decay after the warm-up")
    warmup: float = param(0.1, "share of the steps spent warming up", low=0, high=0.9)
    label_smoothing: float = param(0.0, "cross entropy with smoothed labels", low=0, high=0.9)
    crop: int = param(4, "random crop after reflecting this many pixels on each side; 0 is off", low=0)
    flip: bool = param(True, "random horizontal flip")
    small_epochs: int = param(0, "first epochs on shrunken pictures (progressive resizing: cheaper epochs)", low=0)
    small_scale: float = param(0.625, "side of the shrunken pictures, as a share of the full side", above=0, high=1)
    precision: Literal["auto", "float32", "bfloat16"] = param(
        "auto", "autocast to bfloat16; auto does so where the hardware computes in it"
    )

    def __post_init__(self) -> None:
        spec.check(self)
        if self.small_epochs >= self.epochs:
            raise UserError(
                f"Recipe.small_epochs must be below epochs ({self.epochs}), not {self.small_epochs}: "
                "the last epochs see pictures at their full size"
            )

    def for_tuning(self, *, epochs: int, lr: float, batch_size: int) -> Recipe:
        """A recipe for fine-tuning a trained net on a few clean images, as defenses do.

        Of this one it takes what the pictures and the machine ask for, and the optimiser. How a net comes up from nothing
        (schedule, warm-up, shrunken pictures, smoothed labels) stays behind: one defense means one treatment in every suite.
        """
        return Recipe(
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            crop=self.crop,
            flip=self.flip,
            precision=self.precision,
        )

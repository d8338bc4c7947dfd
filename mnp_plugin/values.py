"""The values that methods and framework exchange; authors of methods import them from :mod:`mnp_plugin.contracts`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mnp_plugin import spec
from mnp_plugin.errors import UserError
from mnp_plugin.spec import param

State = dict[str, Tensor]
"""What an attack learned or drew once: tensors by name, saved with the victim."""


class MethodError(RuntimeError):
    """A method broke its contract; the message names method and clause. Becomes the reason of a failed record."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images and labels on one device.

    Args:
        x: uint8 [N, C, H, W], 0..255.
        y: int64 [N], class indices.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise UserError(f"images must be uint8 [N, C, H, W], not {self.x.dtype} {list(self.x.shape)}")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise UserError(f"labels must be int64 [{len(self.x)}], not {self.y.dtype} {list(self.y.shape)}")

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Tensor | slice) -> Images:
        return Images(self.x[index], self.y[index])

    def to(self, device: torch.device) -> Images:
        """The same images on ``device``."""
        return Images(self.x.to(device), self.y.to(device))

    def pixels(self) -> Tensor:
        """float32 [N, C, H, W] in [0, 1]."""
        return self.x.float() / 255


def to_bytes(x: Tensor) -> Tensor:
    """Round float pixels in [0, 1] to uint8, saturating (never wrapping modulo 256)."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def concat(parts: Sequence[Images]) -> Images:
    """Images of all parts, in order."""
    return Images(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]))


@dataclass(frozen=True, eq=False)
class ImageData:
    """A loaded data set: its two parts, class names, and the channel statistics that nets normalise with."""

    train: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for part, images in (("training", self.train), ("test", self.test)):
            if not len(images):
                raise UserError(f"the {part} set is empty")
            if not 0 <= int(images.y.min()) <= int(images.y.max()) < len(self.classes):
                raise UserError(f"labels of the {part} set must be 0..{len(self.classes) - 1}, one for each of the classes")
        if self.train.x.shape[1:] != self.test.x.shape[1:]:
            raise UserError(f"training and test images differ: {list(self.train.x.shape[1:])}, {list(self.test.x.shape[1:])}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.train.x.shape[1:]
        return c, h, w


@dataclass(frozen=True, eq=False)
class Triggered:
    """Test images that carry the trigger.

    Args:
        x: float32 [M, C, H, W] in [0, 1], not rounded to 8 bit.
        y_true: int64 [M], their true labels.
        y_attack: int64 [M], the labels the attacker wants.
        index: int64 [M], which test images they were.
    """

    x: Tensor
    y_true: Tensor
    y_attack: Tensor
    index: Tensor


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Tools:
    """Device tools for a method. Holds no data: data travel as arguments.

    Args:
        device: where tensors live.
        generator: the method's own random stream, on ``device``.
        recipe: how this benchmark trains nets.
        fresh_net: builds an untrained net of the victim's kind.
        clean_net: gives a net of the same kind trained on the same data without an attack, in eval mode: the source
            model of attacks that need one. A benchmark trains it once and keeps it; elsewhere there is none.
        asset: (name, settings, make) -> tensors by name; ``make`` is called with tools of its own, unless a benchmark
            has kept what it made from the same data, seed and settings.
        busy: told (what runs, steps done, steps in all) now and then.
    """

    device: torch.device
    generator: torch.Generator
    recipe: Recipe
    fresh_net: Callable[[], nn.Module]
    clean_net: Callable[[], nn.Module] = field(default=lambda: _no_clean_net())
    asset: Callable[[str, Mapping[str, Any], Callable[[Tools], State]], State] | None = None
    busy: Callable[[str, int, int], None] = field(default=lambda what, done, total: None)

    def made(self, name: str, settings: Mapping[str, Any], make: Callable[[Tools], State]) -> State:
        """What ``make`` gives, from the benchmark's cache where there is one."""
        return make(self) if self.asset is None else self.asset(name, settings, make)


def _no_clean_net() -> nn.Module:
    raise MethodError("this method needs a net trained on clean data, which only an attack in a benchmark is given")


@dataclass(frozen=True, eq=False, kw_only=True)
class DefenderView:
    """All that a defense may see. Nothing here leads to the trigger, to poisoned data or to a test set.

    Args:
        model: the net to repair; the defense owns this copy.
        clean: the part of the clean budget to work with.
        validation: the rest of the budget, for stopping and choosing.
        num_classes: number of classes.
        extras: what the defense declared in ``needs`` and was granted.
    """

    model: nn.Module
    clean: Images
    validation: Images
    num_classes: int
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Purified:
    """What a defense gives back.

    Args:
        model: plain net with the same ``state_dict`` keys as the victim's (masks baked in), at the blind choice.
        report: JSON-ready facts: what was pruned, where it stopped and why.
        candidates: lazily, every (setting, net) the defense chose among, from which the framework derives the separately
            named oracle row; None where there is no such choice.
    """

    model: nn.Module
    report: Mapping[str, Any] = field(default_factory=dict)
    candidates: Callable[[], Iterator[tuple[Mapping[str, float], nn.Module]]] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Verdict:
    """What a detector says about one net.

    Args:
        score: grows with the suspicion; finite.
        per_class: the evidence that each class is the attacker's target, one finite number per class, in the order of the
            net's outputs; empty where the detector does not look at classes.
        suspected: the class most likely to be the target; None where the detector names none.
        threshold: nets that score above it are called backdoored; None where nothing was calibrated.
        calibration: on what the threshold was set, and how far it can be trusted.
        report: JSON-ready facts beyond these.
    """

    score: float
    per_class: tuple[float, ...] = ()
    suspected: int | None = None
    threshold: float | None = None
    calibration: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def backdoored(self) -> bool | None:
        """The decision; None without a threshold."""
        return None if self.threshold is None else self.score > self.threshold


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

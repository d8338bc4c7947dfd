"""The split, made once per seed: training set, clean budget (with its validation part), test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from mnp_plugin.contracts import ImageData, Images, concat, param
from mnp_plugin.core import params as spec
from mnp_plugin.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CleanBudget:
    """How many clean images a defense gets, and where they come from. Exactly one of the three amounts is set."""

    images: int | None = param(None, "total number of images", low=2)
    per_class: int | None = param(None, "images of each class", low=1)
    percent: float | None = param(None, "percent of the training data", above=0, high=50)
    validation: float = param(0.2, "share of the budget kept for stopping and choosing", above=0, high=0.9)
    source: Literal["held-out", "training"] = param(
        "held-out", "held-out: kept out of the training set; training: drawn from it (the victim has seen them)"
    )

    def __post_init__(self) -> None:
        spec.check(self)
        given = [k for k in ("images", "per_class", "percent") if getattr(self, k) is not None]
        if len(given) != 1:
            raise UserError(
                f"CleanBudget.images , .per_class and .percent: give exactly one amount, not {', '.join(given) or 'none'}"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """One data set, divided for one seed."""

    train: Images
    """What the attacker poisons and the victim is trained on."""
    clean: Images
    """The clean budget without its validation part."""
    validation: Images
    test: Images

    @property
    def budget_size(self) -> int:
        """Images in the clean budget, validation part included."""
        return len(self.clean) + len(self.validation)

    def to(self, device: torch.device) -> Split:
        """The same split on ``device``."""
        return Split(
            train=self.train.to(device),
            clean=self.clean.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )


def divide(data: ImageData, budget: CleanBudget, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(clean budget, training set) as indices into ``data.train``; the draw depends on ``seed`` alone.

    Raises:
        UserError: the budget asks for more images than there are.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.train), generator=generator)
    labels = data.train.y[order]
    count = len(data.classes)
    if budget.per_class is not None:
        sizes = torch.bincount(data.train.y, minlength=count)
        small = int(sizes.argmin())
        if budget.per_class >= int(sizes[small]):
            raise UserError(
                f"clean budget of {budget.per_class} images per class is larger than the data: class '{data.classes[small]}' "
                f"has {int(sizes[small])} training images; ask for fewer"
            )
        chosen = torch.zeros(len(order), dtype=torch.bool)
        for c in range(count):
            chosen[(labels == c).nonzero().flatten()[: budget.per_class]] = True
    else:
        size = budget.images if budget.images is not None else round(len(order) * (budget.percent or 0) / 100)
        if size >= len(order):
            raise UserError(f"clean budget of {size} images is larger than the data: {len(order)} training images; ask for fewer")
        if size < 2:
            raise UserError(f"clean budget of {budget.percent} % is {size} image(s) of {len(order)}; a defense needs at least 2")
        chosen = torch.arange(len(order)) < size
    pool, rest = order[chosen], order[~chosen]
    return pool, torch.arange(len(order)) if budget.source == "training" else rest.sort().values


def make_split(data: ImageData, budget: CleanBudget, seed: int) -> Split:
    """Divide ``data``; the draw depends on ``seed`` alone, so all attacks of a seed share it.

    Raises:
        UserError: the budget asks for more images than there are, or leaves a class nothing to train on.
    """
    pool, rest = divide(data, budget, seed)
    train = data.train if budget.source == "training" else data.train[rest]
    count = len(data.classes)
    missing = (torch.bincount(train.y, minlength=count) == 0).nonzero().flatten().tolist()
    if missing:
        raise UserError(f"class '{data.classes[missing[0]]}' has no training image left beside the clean budget; ask for fewer")
    held = data.train[pool]
    part = validation_part(held.y, budget.validation)
    return Split(train=train, clean=held[~part], validation=held[part], test=data.test)


def redivided(split: Split, share: float, seed: int) -> Split:
    """``split`` with its clean budget divided otherwise into what a defense works with and its validation part.

    Args:
        split: whose training and test set stay as they are.
        share: of the budget that is kept for validation.
        seed: of the division.
    """
    held = concat([split.clean, split.validation])
    order = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed)).to(held.y.device)
    held = held[order]
    part = validation_part(held.y, share)
    return Split(train=split.train, clean=held[~part], validation=held[part], test=split.test)


def validation_part(y: torch.Tensor, share: float) -> torch.Tensor:
    """Mark ``share`` of the budget, spread evenly over the classes; at least one image lands on each side. bool [N]."""
    by_class = torch.argsort(y, stable=True)
    want = min(max(round(len(y) * share), 1), len(y) - 1)
    picks = ((torch.arange(want, device=y.device) + 0.5) * len(y) / want).long()
    part = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    part[by_class[picks]] = True
    return part

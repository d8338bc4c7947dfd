"""Whether a net is right on its clean images at all: where it is not, no repair and no verdict means anything."""

from __future__ import annotations

import torch
from torch import nn

from mnp_plugin.contracts import Images, Recipe
from mnp_plugin.data.augment import random_crop_flip
from mnp_plugin.evaluation.predict import logits

SANE = 0.25
"""Least part of the way from chance to perfect that a net must go on clean images."""
STRANGE = 0.2
"""A recipe that costs more than this much of the accuracy is not the one that the net was trained with."""
PART = 256
"""Images that are augmented at once: as floats they are four times as large."""
MANY = 500
"""Augmented images to look at, each clean one as often as that takes: few say little."""


def hardly_right(accuracy: float, num_classes: int) -> bool:
    """Whether a net of this accuracy on clean images (a fraction) is no better than a wrongly fed one."""
    chance = 1 / num_classes
    return accuracy < chance + SANE * (1 - chance)


def complaint(accuracy: float, num_classes: int) -> str:
    """What to say of such a net."""
    return (
        f"the net is right on {100 * accuracy:.1f} % of the clean images, where chance is {100 / num_classes:.1f} %: it hardly "
        "knows these images. Probably it expects normalised pixels, another image size or another order of the classes"
    )


def on_augmentation(model: nn.Module, images: Images, recipe: Recipe, plain: float) -> str:
    """What to say of a recipe whose augmentation ``model`` was not trained with; empty if there is nothing to say.

    Args:
        model: the net.
        images: clean ones.
        recipe: what moves and mirrors them.
        plain: the net's accuracy on them as they are, a fraction.
    """
    ways = [f"moved by up to {recipe.crop} pixel{'s' * (recipe.crop > 1)}"] * bool(recipe.crop) + [
        "mirrored half of the time"
    ] * recipe.flip
    remedies = ["crop=0 (--crop 0)"] * bool(recipe.crop) + ["flip=False (--no-flip)"] * recipe.flip
    if not ways:
        return ""
    place = images.x.device
    generator = torch.Generator(device=place).manual_seed(0)
    hits = []
    for index in torch.arange(-(-MANY // len(images)) * len(images), device=place).split(PART):  # type: ignore[no-untyped-call]
        part = images[index % len(images)]
        moved = random_crop_flip(part.pixels(), recipe.crop, recipe.flip, generator)
        hits.append(logits(model, moved).argmax(1) == part.y)
    augmented = float(torch.cat(hits).float().mean())
    if plain - augmented <= STRANGE:
        return ""
    return (
        f"{' and '.join(ways)}, as the recipe augments them, the clean images are recognised at {100 * augmented:.1f} instead of "
        f"{100 * plain:.1f} %: the model was not trained so, and what rests on such images may fail. Give a recipe like that of "
        f"its training, such as {' or '.join(remedies)}"
    )

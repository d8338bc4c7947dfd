"""Whether a net is right on its clean images at all: where it is not, no repair and no verdict means anything."""

from __future__ import annotations

SANE = 0.25
"""Least part of the way from chance to perfect that a net must go on clean images."""


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

"""Shapes that several patch attacks share."""

from __future__ import annotations


def scaled(pixels: int, side: int) -> int:
    """A length published for 32-pixel images, in the same relation to an image of ``side`` pixels; at least 2."""
    return max(2, round(pixels * side / 32))

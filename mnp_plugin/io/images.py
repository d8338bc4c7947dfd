"""Image files from elsewhere: only formats that Pillow decodes by itself, of bounded size, and every failure is one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mnp_plugin.core.errors import UserError

FORMATS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP")
"""Formats that are read whatever a file is called. Of others Pillow hands some to programs of the system (EPS to Ghostscript)."""
MAX_PIXELS = 40_000_000
"""Pixels of one image; an empty PNG of 20 kB can claim any number of them."""


@contextmanager
def _opened(path: Path, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    if not path.exists():
        raise UserError(f"{path} is missing")
    if not path.is_file():  # a folder; or a pipe or device, which may never end
        raise UserError(f"{path} is no regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that are refused below, and of odd metadata
            with Image.open(path, formats=formats) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(
                        f"{path} has {image.width}x{image.height} pixels, more than the {MAX_PIXELS} that are decoded"
                    )
                yield image
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path} does not decode: it is no image of a format that is read ({', '.join(formats)})") from None
    except Exception as error:  # damaged bytes may trip a decoder in any way
        raise UserError(f"{path} does not decode: {str(error) or type(error).__name__}") from None


def image_size(path: Path, formats: tuple[str, ...] = FORMATS) -> tuple[int, int]:
    """(width, height) that the file states, in pixels; nothing is decoded.

    Raises:
        UserError: missing, no regular file, no image of ``formats``, or too large.
    """
    with _opened(path, formats) as image:
        return image.size


def read_rgb(path: Path, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The image in RGB, 8 bits a channel, upright as its EXIF data say; 16-bit grey is scaled.

    Raises:
        UserError: as :func:`image_size`, or it does not decode, or its pixels have no known range (32 bits, floats).
    """
    with _opened(path, formats) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode == "F":
            raise UserError(f"{path} holds floating-point pixels, whose range nobody knows; save it with 8 or 16 bits")
        if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow alone would clip it to 255
            grey = np.asarray(image)
            if int(grey.min(initial=0)) < 0 or int(grey.max(initial=0)) > 65535:
                raise UserError(f"{path} holds grey values of 32 bits, whose range nobody knows; save it with 8 or 16 bits")
            image = Image.fromarray((grey // 257).astype(np.uint8))
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB")

"""Images that are not what their name says, too large, of odd pixels or no file at all: read right, or one sentence."""

from __future__ import annotations

import io
import os
import resource
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mnp_plugin.core.errors import UserError
from mnp_plugin.io.images import FORMATS, image_size, read_rgb


def encoded(image: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def empty_png(width: int, height: int) -> bytes:
    """A PNG that states its size and holds hardly a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def test_an_eps_file_starts_no_program_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    path = tmp_path / "x.png"
    path.write_bytes(encoded(PICTURE, "EPS"))
    with pytest.raises(UserError, match=r"x\.png does not decode: it is no image of a format that is read \(PNG, JPEG"):
        read_rgb(path)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("form", ["GIF", "TGA", "PCX", "ICO", "SGI", "DDS", "JPEG2000", "PDF", "XBM"])
def test_other_formats_are_refused(form: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(PICTURE.convert("1") if form == "XBM" else PICTURE, form))
    with pytest.raises(UserError, match="no image of a format that is read"):
        read_rgb(path)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_read_whatever_its_name(form: str, tmp_path: Path) -> None:
    path = tmp_path / "x.anything"
    path.write_bytes(encoded(PICTURE, form))
    assert image_size(path) == (8, 8)
    difference = np.abs(np.asarray(read_rgb(path)).astype(int) - np.asarray(PICTURE)).mean()
    assert difference <= (0 if form not in ("JPEG", "WEBP") else 60)


@pytest.mark.parametrize("read", [read_rgb, image_size])
def test_pipes_folders_and_missing_files_are_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere")
    for name, reason in (("pipe", "no regular file"), ("folder", "no regular file"), ("link", "missing"), ("x", "missing")):
        with pytest.raises(UserError, match=rf"{name}\.png is {reason}"):
            read(tmp_path / f"{name}.png")


@pytest.mark.parametrize("size", [(8001, 8000), (13_300, 13_300), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_before_they_are_decoded(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(empty_png(*size))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UserError, match=r"x\.png"):
        read_rgb(path)
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


GREY = np.array([[0, 257], [32768, 65535]])


@pytest.mark.parametrize(("form", "mode"), [("PNG", "I;16"), ("PPM", "I"), ("PPM", "I;16"), ("TIFF", "I"), ("TIFF", "I;16")])
def test_grey_of_16_bits_keeps_its_levels(form: str, mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(GREY.astype(np.int32 if mode == "I" else np.uint16))
    assert image.mode == mode
    path = tmp_path / "x.tif"
    path.write_bytes(encoded(image, form))
    assert np.asarray(read_rgb(path))[..., 0].tolist() == [[0, 1], [127, 255]]


@pytest.mark.parametrize(
    "pixels", [np.full((2, 2), 0.5, np.float32), np.full((2, 2), -1, np.int32), np.full((2, 2), 65536, np.int32)]
)
def test_pixels_of_unknown_range_are_refused(pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(encoded(Image.fromarray(pixels), "TIFF"))
    with pytest.raises(UserError, match=r"x\.tif holds .* save it with 8 or 16 bits"):
        read_rgb(path)


@settings(max_examples=300, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(form=st.sampled_from(FORMATS), place=st.floats(0, 1), raw=st.binary(min_size=1, max_size=6), cut=st.floats(0.1, 1))
def test_damaged_images_are_read_or_named(form: str, place: float, raw: bytes, cut: float, tmp_path: Path) -> None:
    content = encoded(PICTURE, form)
    at = int(place * len(content))
    path = tmp_path / "x.png"
    path.write_bytes((content[:at] + raw + content[at + len(raw) :])[: int(cut * len(content)) + 1])
    said = str(path)
    try:
        assert read_rgb(path).mode == "RGB"
    except UserError as error:
        said = str(error)
    assert said.startswith(str(path))

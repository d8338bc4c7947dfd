"""The only door for files from elsewhere: tensors and plain values come in, nothing that is inside a file is executed.

Every failure is a :class:`UserError` that names the file and the reason.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from torch import Tensor

from mnp_plugin.core.errors import UserError
from mnp_plugin.io.file_kinds import is_safetensors
from mnp_plugin.io.pickle_values import Settler
from mnp_plugin.io.refusal import RefusedError, need, shown
from mnp_plugin.io.torch_files import opened_torch
from mnp_plugin.io.torch_pickles import MAX_DIMS
from mnp_plugin.io.weights import bare_names, check_finite, find_state_dict, weights_into

__all__ = ["LIMIT_BYTES", "inside", "read_array", "read_plain", "read_tensors", "weights_into"]

LIMIT_BYTES = 2 * 2**30
"""Largest file that is read unless the caller says otherwise."""
MAX_HEADER = 4 * 2**20
"""Bytes of the header of a safetensors file: some 30 000 tensors."""


def read_tensors(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> dict[str, Tensor]:
    """A state dict from a safetensors file or from any file of ``torch.save``, on the CPU; the content decides, not the name.

    State dicts under the usual keys (``state_dict``, ``model``, ``weights`` ...) are unwrapped, whatever stands beside them; the
    ``module.`` that ``DataParallel`` puts before every key and the ``_orig_mod.`` of ``torch.compile`` are removed.

    Raises:
        UserError: no file, too large, damaged, not only tensors, no tensor at all, or values that are not finite.
    """
    with _reading(path):
        size = _size(path, limit_bytes)
        with path.open("rb") as stream:
            head = stream.read(16)
        if path.suffix == ".safetensors" or is_safetensors(head, size):
            _check_header(path, size)
            found = load_safetensors(path)
        else:
            with opened_torch(path) as value:
                found = Settler().settle(find_state_dict(value))
        need(bool(found), "there is no tensor in it")
        found = bare_names(found)
        looked = set()
        for key, tensor in found.items():  # one tensor may stand under many names
            same = tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
            if same not in looked:
                looked.add(same)
                check_finite(key, tensor)
        return found


def read_plain(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> Any:
    """What a file of ``torch.save`` holds, if that is plain: BackdoorBench's ``attack_result.pt``, ANP's ``trigger_info.th``.

    Plain are dictionaries, lists, tuples, sets, numbers, text, bytes, None, NumPy arrays and scalars of numbers or text, and
    dense tensors (returned on the CPU, without gradients). Tensors that shared memory when saved share it again.

    Raises:
        UserError: no file, too large, damaged, or it holds anything else.
    """
    with _reading(path):
        _size(path, limit_bytes)
        with opened_torch(path) as value:
            return Settler().settle(value)


def read_array(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> npt.NDArray[Any]:
    """One array from a ``.npy`` file.

    Raises:
        UserError: no file, too large, damaged, or an array of anything but numbers.
    """
    with _reading(path):
        _size(path, limit_bytes)
        stream = io.BytesIO(path.read_bytes())
        version = np.lib.format.read_magic(stream)
        need(version in ((1, 0), (2, 0)), f"version {version} of the .npy format is not known")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
        need(dtype.kind in "biuf" and dtype.fields is None, f"it holds {dtype}; only numbers are read")
        rest = stream.read()
        claimed = math.prod(shape) * dtype.itemsize
        need(claimed == len(rest), f"an array of {math.prod(shape)} values of {dtype} is given {len(rest)} bytes")
        return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C").copy()


def inside(folder: Path, path: str) -> Path:
    """``folder / path``, resolved, if it stays in ``folder``.

    Raises:
        UserError: an absolute path, a ``..``, or a symbolic link that leads out of the folder.
    """
    parts = PurePosixPath(path), PureWindowsPath(path)
    if not path or "\0" in path:
        raise UserError(f"{folder}: {shown(path)} is no path of a file")
    if any(p.is_absolute() or p.drive or p.root or ".." in p.parts for p in parts):
        raise UserError(f"{folder}: {shown(path)} leads out of the folder; paths in it must be relative and without '..'")
    try:
        target, root = (folder / path).resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise UserError(f"{folder}: {shown(path)} cannot be followed ({error})") from None
    if not target.is_relative_to(root):
        raise UserError(f"{folder}: {shown(path)} is a symbolic link that leads out of the folder, to {target}")
    return target


def _check_header(path: Path, size: int) -> None:
    """Refuse a safetensors file whose header would cost more than its tensors; what else is wrong its own reader says."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        need(length <= MAX_HEADER or length > size, f"its header has {length} bytes, more than the {MAX_HEADER} allowed")
        text = stream.read(min(length, MAX_HEADER))
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return
    for key, about in header.items() if isinstance(header, dict) else ():
        shape = about.get("shape") if isinstance(about, dict) else None
        need(not isinstance(shape, list) or len(shape) <= MAX_DIMS, f"{shown(key)} has more than {MAX_DIMS} dimensions")


def _size(path: Path, limit: int) -> int:
    need(path.exists(), "there is no such file")
    need(path.is_file(), "it is no file")  # a folder; or a pipe or device, which may never end
    size = path.stat().st_size
    need(size <= limit, f"it has {size} bytes, more than the {limit} allowed")
    need(size > 0, "it is empty")
    return size


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is a :class:`UserError` that names ``path`` and the reason."""
    try:
        yield
    except UserError:
        raise
    except RefusedError as error:
        raise UserError(f"{path} is not read: {error}") from None
    except (zipfile.BadZipFile, SafetensorError) as error:
        raise UserError(f"{path} is not read: it is damaged or cut short ({shown(str(error))[1:-1]}); copy it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # bytes from elsewhere may trip any parser, in any way
        raise UserError(f"{path} is not read: it is damaged ({type(error).__name__}: {shown(str(error))[1:-1]})") from None

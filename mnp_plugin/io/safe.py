"""The only door for files from elsewhere: tensors and plain values come in, nothing that is inside a file is executed.

Every failure is a :class:`UserError` that names the file and the reason.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from mnp_plugin.core.errors import UserError
from mnp_plugin.io.pickle_values import RefusedError, need, shown
from mnp_plugin.io.torch_files import read_torch

LIMIT_BYTES = 2 * 2**30
"""Largest file that is read unless the caller says otherwise."""
WRAPPINGS = ("state_dict", "model", "net", "model_state_dict")
"""Keys under which checkpoints keep their state dict."""


def read_tensors(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> dict[str, Tensor]:
    """A state dict from a ``.safetensors`` file or from any file of ``torch.save``, on the CPU.

    State dicts under the keys of :data:`WRAPPINGS` are unwrapped, and the ``module.`` that ``DataParallel`` puts before
    every key is removed.

    Raises:
        UserError: no file, too large, damaged, not only tensors, no tensor at all, or values that are not finite.
    """
    with _reading(path):
        content = _content(path, limit_bytes)
        if path.suffix == ".safetensors":
            found: Any = load_safetensors(content)
        else:
            found = _unwrapped(read_torch(content))
        if found and all(key.startswith("module.") for key in found):
            found = {key.removeprefix("module."): value for key, value in found.items()}
        need(bool(found), "there is no tensor in it")
        for key, value in found.items():
            _check_finite(key, value)
        return dict(found)


def read_plain(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> Any:
    """What a file of ``torch.save`` holds, if that is plain: BackdoorBench's ``attack_result.pt``, ANP's ``trigger_info.th``.

    Plain are dictionaries, lists, tuples, sets, numbers, text, bytes, None, NumPy arrays and scalars of numbers or text, and
    dense tensors (returned on the CPU, without gradients). Tensors that shared memory when saved share it again.

    Raises:
        UserError: no file, too large, damaged, or it holds anything else.
    """
    with _reading(path):
        return read_torch(_content(path, limit_bytes))


def read_array(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> npt.NDArray[Any]:
    """One array from a ``.npy`` file.

    Raises:
        UserError: no file, too large, damaged, or an array of anything but numbers.
    """
    with _reading(path):
        content = _content(path, limit_bytes)
        stream = io.BytesIO(content)
        version = np.lib.format.read_magic(stream)
        need(version in ((1, 0), (2, 0)), f"version {version} of the .npy format is not known")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
        need(dtype.kind in "biuf" and dtype.fields is None, f"it holds {dtype}; only numbers are read")
        rest = content[stream.tell() :]
        need(math.prod(shape) * dtype.itemsize == len(rest), f"an array of shape {shown(shape)} is given {len(rest)} bytes")
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


def weights_into(net: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Load ``tensors`` into ``net``, strictly: the same keys and shapes, finite in the net's own dtype.

    Args:
        net: changed only if everything fits.
        tensors: a state dict.
        source: where it came from, for messages.

    Raises:
        UserError: weights of another net, or values that are not finite.
    """
    own = net.state_dict()
    faults = [
        _listed("missing", [key for key in own if key not in tensors]),
        _listed("unexpected", [key for key in tensors if key not in own]),
        _listed(
            "of another shape",
            [
                f"{key} {list(tensors[key].shape)} instead of {list(value.shape)}"
                for key, value in own.items()
                if key in tensors and tensors[key].shape != value.shape
            ],
        ),
        _listed(
            "of another kind",
            [
                f"{key} {tensors[key].dtype} instead of {value.dtype}"
                for key, value in own.items()
                if key in tensors and not torch.can_cast(tensors[key].dtype, value.dtype)
            ],
        ),
    ]
    if any(faults):
        raise UserError(f"{source}: these weights are of another net: {'; '.join(f for f in faults if f)}")
    fitting = {key: tensors[key].to(value.dtype) for key, value in own.items()}
    try:
        for key, value in fitting.items():
            _check_finite(key, value)
            need(not key.endswith("running_var") or bool((value >= 0).all()), f"{shown(key)} holds a negative variance")
    except RefusedError as error:
        raise UserError(f"{source}: {error}") from None
    net.load_state_dict(fitting, strict=True)


def _listed(what: str, keys: list[str], most: int = 3) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"{what} {', '.join(shown(key)[1:-1] for key in keys[:most])}{more}" if keys else ""


def _check_finite(key: str, value: Tensor) -> None:
    if value.is_floating_point() or value.is_complex():
        need(bool(torch.isfinite(value).all()), f"{shown(key)} holds values that are not finite (NaN or infinite)")


def _unwrapped(found: Any) -> dict[str, Tensor]:
    for _ in range(3):
        if isinstance(found, dict) and found and all(type(k) is str and isinstance(v, Tensor) for k, v in found.items()):
            return found
        inner = (
            next((found[key] for key in WRAPPINGS if isinstance(found.get(key), dict)), None) if isinstance(found, dict) else None
        )
        if inner is None:
            break
        found = inner
    held = (
        f"a dictionary with {_listed('the keys', [str(k) for k in found])}"
        if isinstance(found, dict)
        else f"a {type(found).__name__}"
    )
    raise RefusedError(f"there is no state dict in it, but {held}")


def _content(path: Path, limit: int) -> bytes:
    need(path.exists(), "there is no such file")
    need(path.is_file(), "it is no file")  # a folder; or a pipe or device, which may never end
    size = path.stat().st_size
    need(size <= limit, f"it has {size} bytes, more than the {limit} allowed")
    with path.open("rb") as stream:
        content = stream.read(limit + 1)
    need(len(content) <= limit, f"it has more than the {limit} bytes allowed")
    need(bool(content), "it is empty")
    return content


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is a :class:`UserError` that names ``path`` and the reason."""
    try:
        yield
    except UserError:
        raise
    except RefusedError as error:
        raise UserError(f"{path} is not read: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # bytes from elsewhere may trip any parser, in any way
        raise UserError(f"{path} is not read: it is damaged ({type(error).__name__}: {shown(str(error))[1:-1]})") from None

"""Atomic writing: a reader at any moment, and a kill at any moment, finds the old file or the new one, whole."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mnp_plugin.core.errors import UserError


class UnwritableError(UserError):
    """The disk, or the place that machines share, refused a file. It ends the run: whatever would be made next is lost, too."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> UnwritableError:
        """For what was to be written to ``path``."""
        reason = error.strerror or str(error)
        return cls(f"cannot write {path}: {reason}. Mend that and run the same command again: what was finished is kept")


def _umask() -> int:
    mask = os.umask(0o077)  # the only way to read it is to set it
    os.umask(mask)
    return mask


_MODE = 0o666 & ~_umask()
"""Permissions of a new file, as the user wants them; asked once, while there is one thread."""


STALE = 3600.0
"""Seconds after which a temporary file is that of a process that was killed: one write takes seconds."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``content`` to a temporary file beside ``path``, flush it to the disk, and rename it over ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(_MODE)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a full disk refuses bytes, which know no path
        raise


def clear_stale(files: Iterable[Path]) -> None:
    """Remove those of ``files`` that a killed :func:`write_atomic` left behind."""
    for file in files:
        if re.fullmatch(r"\..+\.[a-z]+\.[a-z0-9_]{8}", file.name):
            with suppress(OSError):  # another process removed it, or this one may not
                if time.time() - file.stat().st_mtime > STALE:
                    file.unlink()

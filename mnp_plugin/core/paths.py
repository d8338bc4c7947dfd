"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

from mnp_plugin.core.errors import UserError


def from_home(path: Path | str) -> Path:
    """``path`` with ``~`` and ``~user`` replaced by the folder they mean.

    Raises:
        UserError: nobody of that name here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {str(error).rstrip('.').lower()}; write the path out") from None

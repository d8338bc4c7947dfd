"""Adds the bridge's files to a BackdoorBench checkout, and takes them away again without a trace."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mnp_plugin.core.errors import UserError
from mnp_plugin.integrations.backdoorbench.scripts import added_files
from mnp_plugin.io.atomic import write_atomic

MANIFEST = ".mnp_plugin_bridge.json"
"""Lists what was added, with its SHA-256; it goes with the rest."""

MARKS = ("defense/base.py", "utils/save_load_attack.py", "config/defense")
"""What every checkout has."""


@dataclass
class Manifest:
    """What the bridge added: file -> SHA-256, and the folders it created, relative to the checkout."""

    files: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


def install(root: Path) -> list[str]:
    """Add the bridge's files; returns those written (none where they stand already).

    Raises:
        UserError: no checkout, or a file of that name that the bridge did not write; nothing is written then.
    """
    check_checkout(root)
    manifest = read_manifest(root)
    wanted = {name: text.encode() for name, text in added_files().items()}
    foreign = [n for n in wanted if _exists(root / n) and not _is_ours(root, n, manifest)]
    if foreign:
        raise UserError(
            f"{root} has files that the bridge did not write, or that were changed since: {', '.join(foreign)}; "
            "move them away, then install again. Nothing was written"
        )
    gone = [n for n in manifest.files if n not in wanted and _is_ours(root, n, manifest)]
    stale = [n for n, content in wanted.items() if not _exists(root / n) or (root / n).read_bytes() != content]
    folders = {str(p) for n in wanted for p in PurePosixPath(n).parents if not (root / p).exists()}
    new = Manifest({n: _digest(c) for n, c in wanted.items()}, sorted(folders | set(manifest.folders)))
    if new != manifest:
        _write_manifest(root, new)  # first, so that an interrupted installation can be taken away
    for name in stale:
        write_atomic(root / name, wanted[name])
    for name in gone:
        (root / name).unlink(missing_ok=True)
    return stale


def uninstall(root: Path) -> list[str]:
    """Remove what :func:`install` added, created folders included; returns the files removed.

    Raises:
        UserError: nothing is installed, or a file was changed since; nothing is removed then.
    """
    check_checkout(root)
    if not (root / MANIFEST).is_file():
        raise UserError(f"{root} has no {MANIFEST}: the bridge is not installed there")
    manifest = read_manifest(root)
    present = [n for n in manifest.files if _exists(root / n)]
    changed = [n for n in present if not _is_ours(root, n, manifest)]
    if changed:
        raise UserError(
            f"{root}: changed since the bridge wrote them: {', '.join(changed)}; move them away to keep them, then uninstall "
            "again. Nothing was removed"
        )
    for name in present:
        (root / name).unlink()
    for folder in sorted(manifest.folders, key=len, reverse=True):
        path = root / folder
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    (root / MANIFEST).unlink()
    return present


def check_checkout(root: Path) -> None:
    """Raise :class:`UserError` unless ``root`` is a BackdoorBench checkout."""
    missing = [mark for mark in MARKS if not (root / mark).exists()]
    if missing:
        raise UserError(
            f"{root} is no BackdoorBench checkout: it has no {missing[0]}; give --root the folder that holds defense/"
        )


def read_manifest(root: Path) -> Manifest:
    """The manifest of a checkout; an empty one where nothing is installed.

    Raises:
        UserError: it is damaged, or names a place outside the checkout.
    """
    path = root / MANIFEST
    if not path.is_file():
        return Manifest()
    try:
        plain: Any = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest({str(k): str(v) for k, v in plain["files"].items()}, [str(f) for f in plain["folders"]])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path} is damaged; delete it and the files that carry 'mnp-bench bridge' in their head") from None
    for name in [*manifest.files, *manifest.folders]:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or name in ("", "."):
            raise UserError(f"{path} names {name!r}, which is not inside the checkout; delete the manifest")
    return manifest


def _write_manifest(root: Path, manifest: Manifest) -> None:
    write_atomic(root / MANIFEST, (json.dumps(vars(manifest), indent=1, sort_keys=True) + "\n").encode())


def _exists(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _is_ours(root: Path, name: str, manifest: Manifest) -> bool:
    path = root / name
    return path.is_file() and not path.is_symlink() and _digest(path.read_bytes()) == manifest.files.get(name)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

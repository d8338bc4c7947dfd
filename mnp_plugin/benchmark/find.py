"""Where suite files are looked for."""

from __future__ import annotations

import sys
from pathlib import Path

from mnp_plugin.core.errors import UserError, did_you_mean

CONFIGS = "benchmark_configs"


def find_config(name: str) -> Path:
    """A suite file by path, or by its name among the configurations here, beside the package, or installed with it."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    package = Path(__file__).resolve().parents[1]
    folders = [Path(CONFIGS), package.parent / CONFIGS, Path(sys.prefix) / "share" / "mnp_plugin" / CONFIGS]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = [f.stem for folder in folders if folder.is_dir() for f in folder.glob("*.yaml")]
    raise UserError(f"no suite is called '{name}'.{did_you_mean(name, known)}")

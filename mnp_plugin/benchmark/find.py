"""Where suite files are looked for."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from mnp_plugin.core.errors import UserError, did_you_mean

CONFIGS = "benchmark_configs"


def find_config(name: str) -> Path:
    """A suite file by path, or by its name among the configurations here and those that ship with the package.

    Raises:
        UserError: no suite of that name.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    suites = installed_suites()
    if name not in suites:
        raise UserError(f"no suite is called '{name}'.{did_you_mean(name, suites)}")
    return suites[name]


def installed_suites() -> dict[str, Path]:
    """Suite files by name. Those in ``benchmark_configs/`` of the current folder hide those that ship.

    An installed package holds the suites inside; in a checkout, and in an editable installation, they lie beside it.
    """
    package = Path(str(files("mnp_plugin")))
    folders = (package / CONFIGS, package.parent / CONFIGS, Path(CONFIGS))
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}

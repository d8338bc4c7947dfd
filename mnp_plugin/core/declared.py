"""What entry points declare: names of methods and where their classes lie, known without importing any of them.

Importing a method imports torch, which takes seconds; a list of names needs none of it. The package's own methods stand in
``mnp_plugin/entry_points.txt``, which ``setup.py`` hands to the installer too, so that a checkout that is not installed knows
the same names as an installed package.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

GROUP = "mnp_plugin"
"""Entry points of this group name a module that registers its classes on import; those of ``mnp_plugin.attacks``,
``mnp_plugin.defenses`` and so on name one class each, ``name = module:Class``, and are imported on first use."""

OWN = Path(__file__).resolve().parents[1] / "entry_points.txt"


@dataclass(frozen=True, kw_only=True)
class Declared:
    """One entry point: ``value`` is ``module`` or ``module:Class``; ``origin`` the distribution and version that brought it."""

    group: str
    name: str
    value: str
    origin: str

    @property
    def module(self) -> str:
        """The module to import."""
        return self.value.partition(":")[0].strip()

    @property
    def attribute(self) -> str:
        """The class in it; empty for a module that registers its classes itself."""
        return self.value.partition(":")[2].strip()

    def load(self) -> Any:
        """Import the module; the class named in it, or the module.

        Raises:
            ImportError: no such module; or whatever the module raises.
            AttributeError: no such class in it.
        """
        module = importlib.import_module(self.module)
        return getattr(module, self.attribute) if self.attribute else module

    def summary(self) -> str | None:
        """First line of the class's docstring, read from the source text; None where only an import could tell."""
        file = source_of(self.module)
        if file is None:
            return None
        try:
            return _summaries(file).get(self.attribute)
        except (OSError, SyntaxError, ValueError):
            return None


def declared() -> Iterator[Declared]:
    """Every entry point of this package and of the installed ones, in the order of registration: its own come first."""
    own = configparser.ConfigParser(delimiters=("=",))
    own.optionxform = str  # type: ignore[assignment,method-assign] # names keep their case
    own.read(OWN, encoding="utf-8")
    for group in own.sections():
        if group.startswith(f"{GROUP}."):
            for name, value in own.items(group):
                yield Declared(group=group, name=name, value=value, origin="mnp_plugin")
    known = metadata.entry_points()
    groups = sorted(g for g in known.groups if g == GROUP or g.startswith(f"{GROUP}."))
    for entry in (entry for group in groups for entry in known.select(group=group)):
        if entry.dist is not None and entry.dist.name.replace("-", "_").lower() == "mnp_plugin":
            continue  # this package, installed: the file has been read
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        yield Declared(group=entry.group, name=entry.name, value=entry.value, origin=origin)


def source_of(module: str) -> Path | None:
    """The source file of a module, found without importing it or the packages around it."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        place = Path(folder).joinpath(*rest)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


@lru_cache(maxsize=256)
def _summaries(file: Path) -> dict[str, str]:
    """First docstring line of every class at the top of a file; empty where there is none."""
    found = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = (ast.get_docstring(node) or "").partition("\n")[0]
    return found

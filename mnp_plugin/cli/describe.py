"""One page of text about one registered method."""

from __future__ import annotations

import dataclasses
import inspect
import typing

from mnp_plugin import contracts
from mnp_plugin.core import params as spec
from mnp_plugin.core.errors import UserError, did_you_mean


def describe(name: str) -> str:
    """Paper, meaning, hyper-parameters with default and range, and what the method may see.

    Raises:
        UserError: nothing of that name in any registry.
    """
    pages = [
        _page(registry.kind, registry.get(name), registry.origin(name))
        for registry in contracts.all_registries
        if name in registry.names()
    ]
    if not pages:
        known = [n for registry in contracts.all_registries for n in registry.names()]
        raise UserError(f"nothing is called '{name}'.{did_you_mean(name, known)}")
    return "\n\n".join(pages)


def _page(kind: str, cls: type[contracts.Component], origin: str) -> str:
    lines = [f"{cls.name} ({kind}, from {origin}, version {cls.version})", "", inspect.getdoc(cls) or "no description", ""]
    lines.append(f"paper: {cls.paper or 'none given'}")
    if issubclass(cls, contracts.Attack):
        lines.append(f"labels: {'clean label, ' if cls.clean_label else ''}{', '.join(cls.label_modes)}")
    if issubclass(cls, contracts.SampleDetector):
        lines.append(f"may see: the model, its clean budget, and the {cls.questions} in question")
    elif issubclass(cls, contracts.Defense | contracts.Detector):
        known = str(getattr(cls, "knowledge", ""))
        more = f"and the poisoned {known}" if known else "nothing else"
        lines.append(f"may see: the model and its clean budget, {more}")
    hints = typing.get_type_hints(cls)
    lines += ["", "hyper-parameters:"]
    for field in dataclasses.fields(cls):
        limits = spec.describe_range(field)
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        shown = "null" if made is None else f"{made:g}" if isinstance(made, float) else made
        kind_text = spec.type_name(hints[field.name]) + (f", {limits}" if limits else "")
        lines.append(f"  {field.name} = {shown}  ({kind_text})  {field.metadata.get('help', '')}")
    return "\n".join(lines)

"""Sweeps: a suite in which settings stand as ``{sweep: [a, b, c]}`` -> one suite text for each combination. Pure.

What is swept under ``dataset``, ``net``, ``recipe`` and ``clean_budget`` is swept for the whole suite; what is swept in an entry
of ``attacks``, ``defenses``, ``detectors`` or ``sample_detectors``, for that entry, which becomes several entries. Names in
tables say the value: ``badnets-poison_ratio=0.05``. No identity knows of a sweep: each point is what a suite without one would
make of its settings.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mnp_plugin.core.documents import Document

KEY = "sweep"
WHOLE = ("dataset", "net", "recipe", "clean_budget")
LISTS = ("attacks", "defenses", "detectors", "sample_detectors")
UNNAMED = ("clean", "none")
"""Methods that keep their label, and so cannot be swept."""
MAX_POINTS = 1000
"""Most combinations of one suite, and of one entry; a plan without end is a mistake."""

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Axis:
    """One swept setting."""

    path: Path
    values: tuple[Any, ...]


def expanded(document: Document) -> Iterator[tuple[Document, Mapping[str, str]]]:
    """The document of each combination of what is swept for the whole suite, its swept entries unfolded.

    With each comes what its names are to say: for ``dataset`` and ``net`` the words that tell the combination from others, such
    as ``{"net": "epochs=20"}``. A document without sweeps comes as it is.

    Raises:
        UserError: a sweep that is no list of at least two different values, stands where none may, or has too many points.
    """
    axes = list(_axes(document, document.data, ()))
    for axis in axes:
        if not _allowed(axis.path):
            where = f"{', '.join(WHOLE)} or an entry of {', '.join(LISTS)}"
            raise document.error(axis.path, f"only settings of {where} can be swept")
    data, lines = _unfolded(document, [axis for axis in axes if axis.path[0] in LISTS])
    whole = [axis for axis in axes if axis.path[0] in WHOLE]
    _count(document, whole)
    for values in itertools.product(*(axis.values for axis in whole)):
        point, words = data, dict[str, str]()
        for axis, value in zip(whole, values, strict=True):
            point = replaced(point, axis.path, _labelled(value) if len(axis.path) == 1 else value)
            if axis.path in (("dataset",), ("net",)):  # which says itself what it is
                continue
            key = "dataset" if axis.path[0] == "dataset" else "net"
            words[key] = "-".join(filter(None, (words.get(key), _word(axis, value, whole))))
        yield Document(point, lines, document.source), words


def _allowed(path: Path) -> bool:
    if path[0] in LISTS:
        return (
            len(path) > 2
            and isinstance(path[1], int)
            and isinstance(path[2], str)
            and path[2] not in ("name", "label", "seeds", "draws")
        )
    return path[0] in WHOLE and path[-1] not in ("name", "label")


def _axes(document: Document, data: Any, path: Path) -> Iterator[Axis]:
    if isinstance(data, dict):
        if KEY in data and path:
            yield _axis(document, data, path)
            return
        for key, value in data.items():
            yield from _axes(document, value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _axes(document, value, (*path, index))


def _axis(document: Document, data: dict[Any, Any], path: Path) -> Axis:
    values = data[KEY]
    if len(data) > 1:
        other = next(key for key in data if key != KEY)
        raise document.error((*path, other), f"a sweep stands alone: {{sweep: [...]}}, without '{other}'")
    if not isinstance(values, list) or len(values) < 2:
        raise document.error((*path, KEY), f"must be a list of two or more values, not {values!r}")
    texts = [json.dumps(value, sort_keys=True, default=str) for value in values]
    if len(set(texts)) < len(texts):
        raise document.error((*path, KEY), "a value stands twice; remove one")
    if any(KEY in text for text in texts) and list(_axes(document, values, (*path, KEY))):
        raise document.error((*path, KEY), "a sweep cannot hold another sweep")
    return Axis(path, tuple(values))


def _count(document: Document, axes: list[Axis]) -> None:
    points = 1
    for axis in axes:
        points *= len(axis.values)
        if points > MAX_POINTS:
            raise document.error(axis.path, f"more than {MAX_POINTS} combinations; sweep fewer values")


def _unfolded(document: Document, axes: list[Axis]) -> tuple[Any, dict[Path, int]]:
    """The data with each swept entry of a list replaced by one entry for each of its combinations, and the lines of it all."""
    data, lines = document.data, dict(document.lines)
    for key in LISTS:
        own = [axis for axis in axes if axis.path[0] == key]
        if not own:
            continue
        entries: list[Any] = []
        came_from: list[int] = []
        for index, entry in enumerate(data[key]):
            mine = [axis for axis in own if axis.path[1] == index]
            if mine and entry.get("name") in UNNAMED:
                raise document.error(mine[0].path, f"'{entry['name']}' keeps its own label, so it cannot be swept")
            _count(document, mine)
            for values in itertools.product(*(axis.values for axis in mine)):
                point = entry
                for axis, value in zip(mine, values, strict=True):
                    point = replaced(point, axis.path[2:], value)
                if mine:
                    words = [_word(axis, value, mine) for axis, value in zip(mine, values, strict=True)]
                    point = {**point, "label": "-".join([str(entry.get("label", entry.get("name"))), *words])}
                entries.append(point)
                came_from.append(index)
        data = {**data, key: entries}
        below: dict[int, list[tuple[Path, int]]] = {}
        for path, line in document.lines.items():
            if len(path) > 1 and path[0] == key:
                below.setdefault(path[1], []).append((path[2:], line))
                del lines[path]
        for index, old in enumerate(came_from):
            lines.update({(key, index, *rest): line for rest, line in below.get(old, [])})
    return data, lines


def _labelled(value: Any) -> Any:
    """A whole net or data set, its label telling its settings."""
    if not isinstance(value, dict) or "name" not in value or "label" in value:
        return value
    return {**value, "label": "-".join([str(value["name"]), *(_safe(f"{k}={v}") for k, v in value.items() if k != "name")])}


def _word(axis: Axis, value: Any, axes: list[Axis]) -> str:
    """``epochs=20``: the last key, or all of them where two axes have the same last key; of a whole block all of its settings."""
    if len(axis.path) == 1 and isinstance(value, dict):
        return "-".join(_safe(f"{key}={setting}") for key, setting in value.items())
    alike = sum(other.path[-1] == axis.path[-1] for other in axes) > 1
    key = ".".join(map(str, axis.path)) if alike else str(axis.path[-1])
    return _safe(f"{key}={value}")


def _safe(text: str) -> str:
    """``text`` in the characters that a label may have."""
    return "".join(c if c.isalnum() or c in "-_.=" else "_" for c in text).strip("_")


def replaced(data: Any, path: Path, value: Any) -> Any:
    """A copy of nested ``data`` in which ``path`` holds ``value``."""
    if not path:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = replaced(data[path[0]] if not isinstance(data, dict) else data.get(path[0]), path[1:], value)
    return copy

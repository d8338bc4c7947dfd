"""YAML text from a user as plain values that remember their lines, at a cost bounded by the text's own length.

Aliases are refused: 400 bytes of them unfold to gigabytes. No tag makes anything but plain values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mnp_plugin.core.errors import UserError

Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, ten times faster, where PyYAML was built with it."""
MAX_CHARACTERS = 2**20
MAX_NODES = 100_000
MAX_DEPTH = 64
TOO_DEEP = f"lists and mappings are nested more than {MAX_DEPTH} deep"
MAX_SCALAR = 10_000
"""Characters of one value."""


class Document:
    """A parsed YAML file that remembers the line of every value.

    Args:
        data: plain Python value (mappings, lists, scalars).
        lines: path of keys and indices -> line number, from 1; empty where the values are from no file.
        source: name of the file, for messages.
    """

    def __init__(self, data: Any, lines: dict[tuple[Any, ...], int], source: str) -> None:
        self.data, self.lines, self.source = data, lines, source

    def error(self, path: tuple[Any, ...], message: str) -> UserError:
        """A :class:`UserError` that names file, line and key path."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        line = f", line {self.lines.get(known, 1)}" if self.lines else ""
        dotted = ".".join(str(p) for p in path)
        return UserError(f"{self.source}{line}: {dotted + ': ' if dotted else ''}{message}")


def read_yaml(path: Path) -> Document:
    """:func:`parse_yaml` of a file that is there; a file too large is not read.

    Raises:
        UserError: as there, or it is no UTF-8 text.
    """
    size, most = path.stat().st_size, 4 * MAX_CHARACTERS
    if size > most:
        raise UserError(f"{path} has {size} bytes, far more than settings need ({most} are read)")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; it should be a YAML file") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Document:
    """Parse YAML into plain values.

    Raises:
        UserError: syntax errors, duplicate keys, aliases, unknown tags, too long or nested too deeply; with the line.
    """
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{source} has {len(text)} characters, far more than settings need ({MAX_CHARACTERS} are read)")
    try:
        return _Parser(Loader(text), source).document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {min(mark.line, text.count(chr(10))) + 1}" if mark else ""  # libyaml counts a line after the last
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        if "nesting depth" in problem:  # libyaml has a bound of its own, which some builds reach before ours
            problem = TOO_DEEP
        raise UserError(f"{source}{line}: not valid YAML: {problem}") from None
    except UnicodeError:
        raise UserError(f"{source}: not valid YAML: it holds half of a character") from None


class _Parser:
    """Builds values from events, one by one, so that neither depth nor number of them is the text's to choose."""

    def __init__(self, loader: Any, source: str) -> None:
        self.loader, self.source = loader, source
        self.lines: dict[tuple[Any, ...], int] = {}
        self.nodes = 0

    def document(self) -> Document:
        self.loader.get_event()  # the start of the stream
        if self.loader.check_event(yaml.StreamEndEvent):
            return Document(None, {(): 1}, self.source)
        self.loader.get_event()  # the start of the document
        data = self._value((), self.loader.get_event())
        self.loader.get_event()
        if not self.loader.check_event(yaml.StreamEndEvent):
            raise self._error(self.loader.get_event(), "a second document begins here; give one")
        return Document(data, self.lines, self.source)

    def _error(self, event: Any, reason: str) -> UserError:
        return UserError(f"{self.source}, line {event.start_mark.line + 1}: not valid YAML: {reason}")

    def _value(self, path: tuple[Any, ...], event: Any) -> Any:
        self.lines[path] = event.start_mark.line + 1
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self._error(event, f"more than {MAX_NODES} values, far more than settings need")
        if len(path) > MAX_DEPTH:
            raise self._error(event, TOO_DEEP)
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, f"the alias *{event.anchor} is not followed; write the value out")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
        if event.tag not in (None, "!", f"tag:yaml.org,2002:{kind}"):
            raise self._error(event, f"the tag {event.tag} is not known here; remove it")
        return self._mapping(path) if kind == "map" else self._sequence(path)

    def _mapping(self, path: tuple[Any, ...]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        while not isinstance(event := self.loader.get_event(), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            key = self._scalar(event) if isinstance(event, yaml.ScalarEvent) else None
            if not isinstance(key, str):
                shown = event.value[:80] if isinstance(event, yaml.ScalarEvent) else "that is a list, a mapping or an alias"
                raise UserError(f"{self.source}, line {line}: key {shown} is not text; put it in quotes")
            if key in made:
                raise UserError(f"{self.source}, line {line}: key '{key}' stands twice; remove one")
            made[key] = self._value((*path, key), self.loader.get_event())
            self.lines[(*path, key)] = line
        return made

    def _sequence(self, path: tuple[Any, ...]) -> list[Any]:
        made: list[Any] = []
        while not isinstance(event := self.loader.get_event(), yaml.SequenceEndEvent):
            made.append(self._value((*path, len(made)), event))
        return made

    def _scalar(self, event: Any) -> Any:
        if len(event.value) > MAX_SCALAR:
            raise self._error(event, f"a value of {len(event.value)} characters, far more than settings need")
        tag = event.tag
        if tag in (None, "!"):
            tag = self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        try:
            value = self.loader.construct_object(yaml.ScalarNode(tag, event.value, event.start_mark))
        except yaml.YAMLError:
            raise self._error(event, f"the tag {tag} is not known here; remove it") from None
        except (ValueError, OverflowError, AttributeError, LookupError, TypeError):  # as PyYAML fails on '!!bool maybe'
            kind = str(tag).rpartition(":")[2]
            raise self._error(event, f"{event.value[:80]!r} is no {kind}; put the value in quotes if it is text") from None
        if isinstance(value, int) and value.bit_length() > 64:
            raise self._error(event, f"a number of {value.bit_length()} bits is far too large")
        return value

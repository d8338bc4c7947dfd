"""Which versions of methods records are of: a number of one version says nothing of another."""

from __future__ import annotations

from collections.abc import Iterable

from mnp_plugin.report.markdown import escape
from mnp_plugin.report.records import Record


def later_versions(records: Iterable[Record]) -> list[tuple[str, int]]:
    """Labels of attacks and defenses of later versions than their first, and which."""
    later = set()
    for record in records:
        for key, label in (("attack", record.attack), ("defense", record.defense)):
            method = record.spec.get(key)
            version = method.get("version") if isinstance(method, dict) else None
            if isinstance(version, int) and version > 1 and not label.endswith(f"(version {version})"):
                later.add((label, version))
    return sorted(later)


def version_lines(records: Iterable[Record]) -> list[str]:
    """A sentence that names them; nothing where there are none."""
    named = ", ".join(f"{escape(label)} {version}" for label, version in later_versions(records))
    return [f"Versions of methods, where not the first: {named}.", ""] if named else []

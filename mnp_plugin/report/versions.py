"""Which versions of methods records are of: a number of one version says nothing of another."""

from __future__ import annotations

from collections.abc import Iterable

from mnp_plugin.report.markdown import escape
from mnp_plugin.report.records import Record


def version_lines(records: Iterable[Record]) -> list[str]:
    """A sentence that names attacks and defenses of later versions than their first; nothing where there are none."""
    later = set()
    for record in records:
        for key, label in (("attack", record.attack), ("defense", record.defense)):
            method = record.spec.get(key)
            version = method.get("version") if isinstance(method, dict) else None
            if isinstance(version, int) and version > 1 and not label.endswith(f"(version {version})"):
                later.add((label, version))
    named = ", ".join(f"{escape(label)} {version}" for label, version in sorted(later))
    return [f"Versions of methods, where not the first: {named}.", ""] if later else []

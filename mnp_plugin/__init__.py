"""Backdoor attacks, defenses and detectors behind a registry, and a benchmark that compares them honestly.

For one model of your own::

    from mnp_plugin import detect, purify
    verdict = detect(model, x, y)
    repaired = purify(model, x, y)
"""

from __future__ import annotations

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # torch takes seconds to import, and reports do without it: load the public calls on first use.
    if name in ("purify", "Purified", "detect", "Verdict"):
        from mnp_plugin import api

        return getattr(api, name)
    raise AttributeError(f"module 'mnp_plugin' has no attribute '{name}'")

"""The command line, ``mnp-bench``."""

from __future__ import annotations

from mnp_plugin.cli.app import main

__all__ = ["main"]

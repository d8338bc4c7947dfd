"""BackdoorBench both ways: our methods in its checkouts, its victims in our suites, our victims as its records."""

from mnp_plugin.integrations.backdoorbench.source import BackdoorBenchVictims

__all__ = ["BackdoorBenchVictims"]

"""The zoos that ship: what they hold, and what they share with other suites."""

from __future__ import annotations

from mnp_plugin.benchmark.find import find_config
from mnp_plugin.benchmark.suite import Suite
from mnp_plugin.benchmark.suite_file import load_suite


def suite(name: str) -> Suite:
    return load_suite(find_config(name))


def halves(zoo: Suite) -> dict[tuple[bool, bool], int]:
    """Nets by (is clean, is for calibration)."""
    counts: dict[tuple[bool, bool], int] = {}
    for victim in zoo.victims:
        key = victim.attack.label == "clean", victim.seed in zoo.calibration_seeds
        counts[key] = counts.get(key, 0) + 1
    return counts


def test_the_zoo_of_digits_has_twenty_of_each_half_for_the_test() -> None:
    assert set(halves(suite("zoo_digits")).values()) == {10}


def test_the_zoo_of_cifar10_reuses_the_victims_of_the_leaderboard() -> None:
    zoo, table = suite("zoo_cifar10_cpu"), suite("cifar10_cpu")
    known = {victim.fingerprint for victim in zoo.victims}
    assert {victim.fingerprint for victim in table.victims} <= known
    counts = halves(zoo)
    assert counts[True, True] >= 9
    assert counts[True, False] >= 10
    assert {victim.seed for victim in zoo.victims}.isdisjoint({2})  # on which 'mnp' was developed


def test_development_nets_are_those_of_the_defense() -> None:
    known = {victim.fingerprint for victim in suite("mnp_dev_cifar10_cpu").victims}
    zoo = suite("zoo_dev_cifar10_cpu")
    assert {victim.fingerprint for victim in zoo.victims} <= known
    assert {victim.seed for victim in zoo.victims} == {2}

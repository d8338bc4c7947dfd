"""What is built from this repository: the wheel works away from it, the source distribution is whole, editable is a path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = (
    "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile",
    "CITATION.cff", "mkdocs.yml",
    "benchmark_configs", "docs", "experiments", "mnp_plugin", "tests",
)  # fmt: skip
KINDS = ("sdist", "wheel", "editable")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file of every kind, built from a copy, because building leaves folders behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in TOPS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(ROOT / name, source / name)
    files = {}
    for kind in KINDS:
        code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out / kind)!r}))"
        (out / kind).mkdir()
        subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, timeout=300)
        (files[kind],) = (out / kind).iterdir()
    return files


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_suites_and_every_file_of_the_package(built: dict[str, Path]) -> None:
    names = set(names_in(built["wheel"]))
    for suite in (ROOT / "benchmark_configs").glob("*.yaml"):
        assert f"mnp_plugin/benchmark_configs/{suite.name}" in names
    package = ROOT / "mnp_plugin"
    for file in package.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith("."):
            assert f"mnp_plugin/{file.relative_to(package).as_posix()}" in names
    assert {name.partition("/")[0] for name in names} == {
        "mnp_plugin",
        next(n for n in names if "dist-info" in n).partition("/")[0],
    }


def test_an_installed_wheel_knows_its_suites_and_methods_anywhere(built: dict[str, Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(built["wheel"]) as archive:
        archive.extractall(site)  # what pip install --target does
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def bench(*arguments: str) -> str:
        command = [sys.executable, "-m", "mnp_plugin", *arguments]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [sys.executable, "-c", "import mnp_plugin; print(mnp_plugin.__file__)"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(site))
    assert "84 cells on 14 victims, 0 done\n" in bench("plan", "digits")
    listed = bench("list")
    assert listed.count("  badnets ") == 1  # not once more by the entry points of the installed package
    assert "broken plugin" not in listed


def test_the_source_distribution_is_whole(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        file.relative_to(ROOT).as_posix()
        for top in TOPS
        for file in ([ROOT / top] if (ROOT / top).is_file() else (ROOT / top).rglob("*"))
        if file.is_file() and file.suffix != ".pyc" and not any(part.startswith(".") for part in file.relative_to(ROOT).parts)
    }
    assert wanted - names == set()


def test_an_editable_installation_is_a_path_that_type_checkers_follow(built: dict[str, Path]) -> None:
    names = names_in(built["editable"])
    assert [name for name in names if name.endswith(".py")] == []  # no import hook
    (path,) = [name for name in names if name.endswith(".pth")]
    with zipfile.ZipFile(built["editable"]) as archive:
        assert (Path(archive.read(path).decode().strip()) / "mnp_plugin" / "__init__.py").is_file()


def test_the_metadata_are_complete_and_no_link_of_the_readme_leads_nowhere(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        (place,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        metadata = message_from_bytes(archive.read(place))
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Author"]
    assert "BackdoorBench" in metadata["Keywords"]
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert "](docs/" not in text
    assert "![" not in text, "an index has no picture of ours"
    assert "](CONTRIBUTING.md)" not in text

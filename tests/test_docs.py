"""README and documentation are true: their code runs, their tables are the committed ones, their links lead somewhere."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import make_cifar10_jpeg
import pytest
import torch
import yaml
from PIL import Image

import mnp_plugin
from mnp_plugin import contracts
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.cli.app import main
from mnp_plugin.data.digits import Digits
from mnp_plugin.data.folder import load_tree
from mnp_plugin.nets.small import SmallNet
from mnp_plugin.testing import check

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(DOCS.rglob("*.md"))
GENERATED = {"index.md", "contributing.md", "changelog.md", "guide/cli.md"} | {
    f"methods/{kind}s.md" for kind in ("attack", "defense", "detector", "sample_detector")
}


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """``docs/hooks.py``, which makes pages from the package and the results."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def nav(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values():
            yield from nav(value) if isinstance(value, list) else [value]


# -- the README


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 145


def test_the_readme_names_the_test_command_that_ci_runs() -> None:
    command = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1]
    assert command == "make test-all"
    assert any(line.startswith(command) for block in blocks(README, "") for line in block.splitlines())


def test_the_readme_lists_every_method() -> None:
    part = README.partition("## What is in it")[2].partition("\n## ")[0]
    rows = {
        line.split("|")[1].strip(): set(re.findall(r"`([^`]+)`", line)) for line in part.splitlines() if line.startswith("| ")
    }
    kinds = {
        "attacks": "attacks",
        "defenses": "defenses",
        "detectors": "detectors",
        "of single images": "sample_detectors",
        "data sets": "datasets",
        "nets": "nets",
    }
    for row, kind in kinds.items():
        registry = getattr(contracts, kind)
        own = {name for name in registry.names() if registry.origin(name) == "mnp_plugin"}
        assert rows[row] == own, row


def test_the_table_of_the_readme_is_the_committed_one(hooks: ModuleType) -> None:
    assert hooks.with_demo(README) == README


FEW: dict[str, dict[str, Any]] = {
    "purify": {"expose": False, "rounds": 1, "steps": 2, "probes": 1, "restore_steps": 2},
    "detect": {"expose": False, "draws": 1, "nulls": 1, "steps": 2, "searches": 1, "mask_steps": 2, "restore_steps": 2},
}
"""Settings beside those of the documents, so that their code takes a second."""


@pytest.mark.parametrize("settings", [FEW, pytest.param({}, marks=pytest.mark.slow)], ids=["few steps", "as printed"])
@pytest.mark.parametrize("file", ["README.md", "docs/guide/repair.md"])
def test_the_code_about_ones_own_model_runs(
    file: str, settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_settings(call: Callable[..., Any], more: dict[str, Any]) -> Callable[..., Any]:
        return lambda *args, settings=None, **options: call(*args, settings={**more, **(settings or {})}, **options)

    for name, more in settings.items():
        monkeypatch.setattr(mnp_plugin, name, with_settings(getattr(mnp_plugin, name), more))
    monkeypatch.chdir(tmp_path)
    data = Digits(size=8).load(tmp_path)
    few = data.test[data.test.y < 2][:16]
    model = SmallNet(width=1).build(2, data.shape)
    keys = list(model.state_dict())
    names = {"my_model": model, "x_clean": few.x, "y_clean": few.y}
    for code in blocks((ROOT / file).read_text(encoding="utf-8"), "python"):
        exec(compile(code, file, "exec"), names)
    assert list(torch.load(tmp_path / "repaired.pt", weights_only=True)) == keys
    assert isinstance(names["verdict"], contracts.Verdict)


@pytest.mark.parametrize("file", ["README.md", "docs/guide/suite.md"])
def test_the_suites_are_valid(file: str) -> None:
    suites = [parse_suite(text, file, "mine") for text in blocks((ROOT / file).read_text(encoding="utf-8"), "yaml")]
    assert {victim.attack.label for victim in suites[0].victims} >= {"clean", "badnets", "wanet"}
    assert all(suite.victims for suite in suites)


# -- the site


def test_the_navigation_holds_every_page_and_no_other() -> None:
    listed = list(nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(listed) == sorted([*(page.relative_to(DOCS).as_posix() for page in PAGES), *GENERATED])


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(page: Path, hooks: ModuleType) -> None:
    for found in hooks.LINK.finditer(page.read_text(encoding="utf-8")):
        target = (page.parent / found[2]).resolve()
        inside = target.relative_to(DOCS).as_posix() if target.is_relative_to(DOCS) else ""
        assert target.exists() or inside in GENERATED, found[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_figures_of_results_are_included_and_never_typed(page: Path, hooks: ModuleType) -> None:
    text = page.read_text(encoding="utf-8")
    built = hooks.with_results(text)
    assert "<!-- table" not in built
    assert "<!-- json" not in built
    if page.parent.name == "experiments":
        assert "<!-- " in text
        assert not re.search(r"^\|", text, re.MULTILINE)


def test_a_table_that_is_missing_or_ambiguous_stops_the_build(hooks: ModuleType) -> None:
    text = "| a | b |\n|---|---|\n| 1 | 2 |\n\n| c |\n|---|\n\n| c |\n|---|\n"
    assert hooks.table(text, "a") == "| a | b |\n|---|---|\n| 1 | 2 |"
    for first in ("b", "c"):
        with pytest.raises(ValueError, match="not one"):
            hooks.table(text, first)


def test_the_clauses_of_the_contract_are_those_that_hold(hooks: ModuleType) -> None:
    listed = hooks.with_results((DOCS / "extending" / "contract-test.md").read_text(encoding="utf-8"))
    held = check("none") + check("badnets") + check("smallnet")
    assert len(held) > 15
    for clause in held:
        assert f"\n- {clause}" in listed


def test_the_command_line_page_holds_every_verb_and_option(hooks: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    page = hooks.command_line()
    for words in (["run"], ["purify"], ["anp", "prune"], ["bridge", "export"]):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
        section = page.partition(f"\n## `{' '.join(words)}`\n")[2].partition("\n## ")[0]
        assert options
        for option in options:
            assert option in section, (words, option)


@pytest.mark.parametrize("kind", ["attack", "defense", "detector", "sample_detector"])
def test_the_pages_of_methods_hold_every_hyper_parameter(kind: str, hooks: ModuleType) -> None:
    page = hooks.methods(kind)
    registry = getattr(contracts, f"{kind}s")
    for name in registry.names():
        section = page.partition(f"\n## `{name}`\n")[2].partition("\n## ")[0]
        assert registry.get(name).paper in section
        for field in dataclasses.fields(registry.get(name)):
            assert f"\n| `{field.name}` | " in section


@pytest.mark.thorough
def test_the_methods_of_the_extending_pages_pass_the_contract_test(tmp_path: Path) -> None:
    """In a process of its own, so that they are registered nowhere else."""
    pages = ("defense", "detector", "sample_detector", "dataset", "net")
    code = "\n".join(blocks((DOCS / "extending" / f"{page}.md").read_text(encoding="utf-8"), "python")[0] for page in pages)
    code += """
from mnp_plugin.data.split import CleanBudget, make_split
from mnp_plugin.testing import check
for name in ("clip-scales", "noise-votes", "unsure", "stripes", "tinynet"):
    assert check(name)
data = Stripes().load(Path("."))
assert len(make_split(data, CleanBudget(images=20), 0).train) == 380
"""
    (tmp_path / "methods.py").write_text(code)
    command = [sys.executable, "-W", "error", "methods.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# -- the map of the rooms, the citation, the data


def test_the_map_of_the_rooms_is_the_one_that_is_checked() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in tools if contract["type"] == "layers")
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## The rooms")[2]
    drawn = [set(line[:34].split()) for line in blocks(text, "")[0].splitlines()]
    assert drawn == [{room.removeprefix("mnp_plugin.") for room in re.split(r"\s*[|:]\s*", layer)} for layer in layers]


def test_every_room_is_on_the_map() -> None:
    package = ROOT / "mnp_plugin"
    rooms = {p.name for p in package.iterdir() if (p / "__init__.py").is_file()}
    files = {p.stem for p in package.glob("*.py") if not p.stem.startswith("__")}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## The rooms")[2]
    assert rooms | files == {word for line in blocks(text, "")[0].splitlines() for word in line[:34].split()}


def test_the_sizes_of_the_rooms_are_counted_and_make_up_the_package(hooks: ModuleType) -> None:
    text = (DOCS / "concepts" / "route.md").read_text(encoding="utf-8").partition("## Size of the rooms")[2]
    counted = re.findall(r"\| (\d+) \((\d+)\) \|$", hooks.with_results(text), re.MULTILINE)
    *rooms, package = [(int(lines), int(files)) for lines, files in counted]
    assert package == (sum(lines for lines, _ in rooms), sum(files for _, files in rooms))
    assert all(lines for lines, _ in rooms)
    assert package[1] == len(list((ROOT / "mnp_plugin").rglob("*.py")))


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == mnp_plugin.__version__
    assert "2405.17750" in citation["preferred-citation"]["url"]


def test_cifar10_becomes_a_tree_that_suites_read(tmp_path: Path) -> None:
    class Few:
        classes = ("airplane", "bird")

        def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
            for grey, label in ((10, 1), (200, 0), (90, 1)):
                yield Image.new("RGB", (32, 32), (grey, grey, grey)), label

    for split in ("train", "test"):
        assert make_cifar10_jpeg.write_tree(Few(), tmp_path / "tree" / split) == 3
    data = load_tree(tmp_path / "tree", ("train", "test"), 32, tmp_path / "cache")
    assert data.classes == Few.classes
    assert data.train.y.tolist() == [0, 1, 1]
    means = data.train.x.float().mean((1, 2, 3))
    assert torch.allclose(means, torch.tensor([200.0, 10.0, 90.0]), atol=1)  # JPEG, in the order of the data set


def test_the_page_of_the_package_lists_every_public_name() -> None:
    text = (DOCS / "api" / "mnp_plugin.md").read_text(encoding="utf-8")
    objects = {name for name in mnp_plugin.__all__ if not name.endswith(("registries", "_registry"))}
    assert set(re.findall(r"^ +- (\w+)$", text, re.MULTILINE)) == objects
    assert all(f"`{name}`" in text for name in set(mnp_plugin.__all__) - objects)


@pytest.mark.parametrize("verb", ["purify", "detect"])
def test_the_guide_names_no_flag_that_is_not_there(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    guide = (DOCS / "guide" / "repair.md").read_text(encoding="utf-8")
    commands = [line for line in guide.splitlines() if line.startswith(f"mnp-bench {verb}")]
    assert commands
    assert {flag for line in commands for flag in re.findall(r"--[\w-]+", line)} <= known
    if verb == "purify":  # which knows all that the text names, but for the flags of detect
        assert set(re.findall(r"`(--[\w-]+)", guide)) <= known | {"--exit-code", "--picture", "--defense-settings"}

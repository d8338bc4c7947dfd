"""What a verb imports. torch takes seconds, and names, help and tables need none of it; seconds themselves are not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mnp_plugin.benchmark.find import installed_suites
from mnp_plugin.core.registries import all_registries

HEAVY = ("torch", "torchvision", "torchmetrics", "sklearn", "scipy", "pandas", "PIL", "torch_pruning", "matplotlib", "jinja2")

READ_FROM_FILES = {"backdoorbench"}
"""A source of victims: what may stand in their files is a table of torch's own types."""

PROBE = """
import sys
from mnp_plugin.cli import main
for arguments in {calls!r}:
    try:
        status = main(arguments) or 0
    except SystemExit as end:
        status = end.code or 0
    found = [name for name in {heavy!r} if name in sys.modules]
    if status or found:
        sys.exit(f"{{arguments}}: status {{status}}, imports {{found}}")
"""


def wrong(cwd: Path, *calls: list[str], heavy: tuple[str, ...] = HEAVY) -> str:
    """What the first of ``calls`` that fails or imports something ``heavy`` says; nothing if none does."""
    code = PROBE.format(calls=list(calls), heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    return "" if done.returncode == 0 else done.stderr or f"status {done.returncode}"


def test_names_and_help_import_nothing_heavy(tmp_path: Path) -> None:
    verbs = ("run", "plan", "report", "list", "describe", "check", "bridge", "purify", "detect", "anp", "figure")
    asked = [["--help"], ["--version"], ["--print-completion", "bash"], *([verb, "--help"] for verb in verbs)]
    assert wrong(tmp_path, *asked, ["list"], ["list", "--json"], ["list", "nets"]) == ""
    assert "imports ['json']" in wrong(tmp_path, ["--help"], ["list", "--json"], heavy=("json",))


def test_the_names_of_methods_are_known_without_torch() -> None:
    code = "import sys; from mnp_plugin import net_registry as r; assert 'vit' in r.names() and 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_plan_needs_no_torch(tmp_path: Path) -> None:
    """A module of a method that uses torch outside its functions makes plans slow."""
    code = f"""
import sys
from mnp_plugin.cli import main
for suite in {sorted(installed_suites())!r}:
    assert main(["plan", suite]) == 0
    found = {set(HEAVY) - {"PIL"}!r} & sys.modules.keys()
    if found:
        sys.exit(f"the plan of {{suite}} imports {{found}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_a_description_needs_no_torch() -> None:
    names = {name for registry in all_registries for name in registry.names()} - READ_FROM_FILES
    code = f"""
import sys
from mnp_plugin.cli import main
for name in {sorted(names)!r}:
    assert main(["describe", name]) == 0
    if "torch" in sys.modules:
        sys.exit(f"{{name}} imports torch")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.thorough
def test_with_torch_there_the_answers_are_the_same(tmp_path: Path) -> None:
    code = """
{first}
from mnp_plugin.cli import main
for arguments in (["plan", "digits"], ["describe", "mnp"], ["describe", "backdoorbench"]):
    assert main(arguments) == 0
"""
    texts = [
        subprocess.run(
            [sys.executable, "-c", code.format(first=first)], capture_output=True, text=True, cwd=tmp_path, check=True
        ).stdout
        for first in ("", "import torch")
    ]
    assert texts[0] == texts[1] != ""


@pytest.mark.thorough
def test_after_a_plan_the_library_works_as_ever(tmp_path: Path) -> None:
    code = """
import sys
from mnp_plugin.cli import main
main(["plan", "digits"])
assert "torch" not in sys.modules
from mnp_plugin.core import images
from mnp_plugin.defenses import npd
import torch
assert len(images.Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)).pixels()) == 2
assert images.Tensor is torch.Tensor and images.torch is torch
assert npd.functional_call is torch.func.functional_call and npd.F is torch.nn.functional
from mnp_plugin.testing import check
print(len(check("npd", {"epochs": 1, "warm_epochs": 1})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 3

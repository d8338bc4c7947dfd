"""The public names are typed for those who check their own code with ``mypy --strict`` or pyright."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import mnp_plugin

ROOT = Path(__file__).parents[2]

PRELUDE = """
from torch import Tensor, nn, zeros

my_model: nn.Module = nn.Identity()
x_clean: Tensor = zeros(0)
y_clean: Tensor = zeros(0)
"""

REVEALED = """
reveal_type(with_normalisation(nn.Linear(1, 1), (0.5,), (0.5,)))
reveal_type(purify(my_model, x_clean, y_clean).report)
reveal_type(detect(my_model, x_clean.numpy(), y_clean.numpy()).backdoored)

from mnp_plugin import defense_registry

reveal_type(defense_registry.get("mnp"))
"""


def users_code(folder: Path) -> Path:
    """A file of the README's examples, and of questions to a type checker."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert any("purify(" in block for block in blocks)
    code = folder / "user.py"
    code.write_text("\n".join([PRELUDE, *blocks, REVEALED]))
    return code


def test_the_code_of_the_readme_passes_mypy_strict(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), str(users_code(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout.replace("builtins.", ""))  # which mypy's versions differ in
    assert revealed == [
        "torch.nn.modules.linear.Linear", "typing.Mapping[str, Any]", "bool | None", "type[mnp_plugin.core.defense.Defense]",
    ]  # fmt: skip


@pytest.mark.thorough
@pytest.mark.skipif(find_spec("pyright") is None, reason="pyright is not installed: pip install -e '.[test]'")
def test_the_code_of_the_readme_passes_pyright_strict(tmp_path: Path) -> None:
    users_code(tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)], "typeCheckingMode": "strict"}))
    command = [sys.executable, "-m", "pyright", "--project", str(tmp_path), "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    said = json.loads(done.stdout)
    assert done.returncode == 0, said["generalDiagnostics"]
    assert said["summary"]["filesAnalyzed"] == 1
    revealed = [re.findall(r'is "(.*)"$', found["message"])[0] for found in said["generalDiagnostics"]]
    assert revealed == ["Linear", "Mapping[str, Any]", "bool | None", "type[Defense]"]


def test_the_registries_are_public_names_beside_the_packages_of_methods() -> None:
    """A package of methods becomes an attribute of ``mnp_plugin`` as soon as one of them is imported."""
    names = [name for name in mnp_plugin.__all__ if name.endswith("_registry")]
    found = [getattr(mnp_plugin, name) for name in names]
    assert set(found) == set(mnp_plugin.registries.all_registries)
    assert all(
        registry.kind.replace(" ", "_") == name.removesuffix("_registry") for name, registry in zip(names, found, strict=True)
    )
    import_module("mnp_plugin.defenses.mnp")
    assert mnp_plugin.defense_registry.get("mnp").__module__ == "mnp_plugin.defenses.mnp"
    assert set(names) <= set(dir(mnp_plugin))

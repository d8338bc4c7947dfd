"""The public names are typed for those who check their own code with ``mypy --strict``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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
"""


def test_the_code_of_the_readme_passes_mypy_strict(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert any("purify(" in block for block in blocks)
    code = tmp_path / "user.py"
    code.write_text("\n".join([PRELUDE, *blocks, REVEALED]))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), str(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout.replace("builtins.", ""))  # which mypy's versions differ in
    assert revealed == ["torch.nn.modules.linear.Linear", "typing.Mapping[str, Any]", "bool | None"]

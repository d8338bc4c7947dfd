"""Files that torch.load reads, written as a whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnp_plugin.io.atomic import write_atomic


def plain_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict on the CPU whose tensors share no memory, in the same order."""
    return {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}


def write_torch(path: Path, content: Any) -> None:
    """``torch.save`` of ``content`` to ``path``."""
    stream = io.BytesIO()
    torch.save(content, stream)
    write_atomic(path, stream.getvalue())

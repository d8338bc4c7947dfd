"""Several named groups of tensors in one flat mapping, as safetensors files hold them: ``group.name`` -> tensor."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def prefixed(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` with their names put under ``group``."""
    return {f"{group}.{name}": value for name, value in tensors.items()}


def part(group: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo :func:`prefixed`: what lies under ``group``, its names without it."""
    start = f"{group}."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}

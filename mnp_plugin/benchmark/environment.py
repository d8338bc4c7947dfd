"""Where a number was made: versions and hardware."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import mnp_plugin
from mnp_plugin.benchmark.commit import commit
from mnp_plugin.training.device import uses_bfloat16


def versions() -> dict[str, str]:
    """Versions that a number may depend on; ``commit`` is that of this package, where it runs from a checkout of its own."""
    found = commit()
    return {
        "mnp_plugin": mnp_plugin.__version__,
        **({"commit": found} if found else {}),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": version("numpy"),
    }


def hardware(device: torch.device, precision: str) -> dict[str, Any]:
    """Device, processor, threads and numeric precision."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "precision": "bfloat16" if uses_bfloat16(precision, device) else "float32",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

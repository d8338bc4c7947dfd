"""Global state that a library must not disturb: random streams, grad mode, default dtype."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def callers_state_kept(device: torch.device, seed: int) -> Iterator[None]:
    """Run the block with torch's global stream seeded, gradients on and float32 as default; then put all back as it was.

    Covers the random streams of torch (the CPU's and that of ``device``), NumPy and Python, ``no_grad`` and
    ``inference_mode`` of the caller, and torch's default dtype.
    """
    python, numpy, dtype = random.getstate(), np.random.get_state(), torch.get_default_dtype()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad():
            torch.set_default_dtype(torch.float32)
            seed_torch(device, seed)
            yield
    finally:
        torch.set_default_dtype(dtype)
        random.setstate(python)
        np.random.set_state(numpy)


def seed_torch(device: torch.device, seed: int) -> None:
    """Seed the global streams of the CPU and of ``device``, and of no other: ``torch.manual_seed`` seeds every GPU there is."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)

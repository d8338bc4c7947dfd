"""What a piece of work costs: wall time and peak memory."""

from __future__ import annotations

import threading
import time

import psutil
import torch


class Cost:
    """Wall time in seconds and peak memory in MiB of a ``with`` block.

    Memory is that of the device on CUDA; else what is resident, sampled every 20 ms.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.mib, self.seconds = device, 0.0, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._start = 0.0

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            self.mib = max(self.mib, process.memory_info().rss / 2**20)
            if self._stop.wait(0.02):
                return

    def __enter__(self) -> Cost:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds = time.perf_counter() - self._start
        if self.device.type == "cuda":
            self.mib = torch.cuda.max_memory_allocated(self.device) / 2**20
        else:
            self._stop.set()
            self._thread.join()

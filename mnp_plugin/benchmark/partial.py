"""What an interrupted training of a victim goes on from."""

from __future__ import annotations

import math
import time

import torch

from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import VictimSpec
from mnp_plugin.contracts import State


class Partial:
    """Keeps a victim's training now and then, and the seconds it took before it was interrupted."""

    EVERY = 20.0
    """Least seconds between two writes, so that short trainings write nothing."""

    def __init__(self, store: Store, victim: VictimSpec) -> None:
        self.store, self.victim, self.seconds = store, victim, 0.0
        self._start = self._last = time.perf_counter()

    def load(self) -> State | None:
        """What an interrupted training left."""
        state = self.store.load_partial(self.victim)
        if state is not None:
            if not math.isfinite(seconds := float(state.pop("seconds"))):
                raise ValueError("seconds are not finite")
            self.seconds = seconds
        return state

    def save(self, state: State) -> None:
        """Keep ``state`` if the last time is long enough ago."""
        now = time.perf_counter()
        if now - self._last >= self.EVERY:
            self._last = now
            self.store.save_partial(self.victim, {**state, "seconds": torch.tensor(self.seconds + now - self._start)})

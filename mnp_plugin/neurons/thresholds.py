"""Pruning by a threshold on masks: the sweep that ANP and RNP share, and the blind choice among candidates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from torch import Tensor, nn

from mnp_plugin.neurons.channels import Neurons, prune

Candidates: TypeAlias = "Iterator[tuple[Mapping[str, float], nn.Module]]"


def up_to(masks: Tensor, threshold: float) -> Tensor:
    """Neurons with a mask up to ``threshold``, int64, to the four decimals that the methods' files carry."""
    return (masks.mul(1e4).round() <= threshold * 1e4 + 1e-3).nonzero().flatten()


def sweep(victim: nn.Module, neurons: Neurons, masks: Tensor, *, highest: float, step: float) -> Candidates:
    """(threshold, pruned net) for each of 0, step, ..., highest that prunes more than the one before; nets are reused.

    Pruning sets the scale to 0 and keeps the bias.
    """
    model = copy.deepcopy(victim)
    before = -1
    for i in range(int(highest / step + 1e-9) + 1):
        threshold = i * step
        chosen = up_to(masks, threshold)
        if len(chosen) > before:
            before = len(chosen)
            prune(model, neurons, chosen, bias=False)
            yield {"threshold": round(threshold, 6), "pruned": float(before)}, model


def above(victim: nn.Module, neurons: Neurons, excess: Tensor, *, bias: bool) -> Candidates:
    """(u, net without the neurons whose ``excess`` is above u) for u = 10, 9.5, ..., 0; one net, reused."""
    trial = copy.deepcopy(victim)
    for step in range(20, -1, -1):
        found = (excess > step / 2).nonzero().flatten()
        prune(trial, neurons, found, bias=bias)
        yield {"u": step / 2, "pruned": float(len(found))}, trial


def last_within(candidates: Candidates, fine: Callable[[nn.Module], bool]) -> tuple[Mapping[str, float], nn.Module] | None:
    """The last candidate that is ``fine``, the net copied; None if none is. Nets may be reused by the iterator."""
    best = None
    for setting, candidate in candidates:
        if fine(candidate):
            best = setting, copy.deepcopy(candidate)
    return best

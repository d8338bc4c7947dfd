"""Whether a net gives logits in train mode, too: most methods train a copy of it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def training_fault(model: nn.Module, x: Tensor) -> str:
    """What keeps ``model`` from being trained as a classifier, and what to do about it; empty if nothing does.

    It is tried on a copy, with a random stream of its own.

    Args:
        model: gives logits in eval mode.
        x: two images or more that it takes, float32 [N, C, H, W], on its device.
    """
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []), torch.no_grad():
        try:
            out = copy.deepcopy(model).train()(x)
        except Exception as error:  # a stranger's code, which may raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            return f"it works in eval mode but fails in train mode ({reason}); make its forward work in both"
    if isinstance(out, Tensor) and out.ndim == 2:
        return ""
    given = f"a tensor of shape {list(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
    heads = [name for name, _ in model.named_children() if name.lower().startswith("aux")]
    if heads:  # torchvision's GoogLeNet and Inception
        drop = f"drop its auxiliary heads, which only its own training needed: model.{' = model.'.join(heads)} = None"
        drop += " and model.aux_logits = False" if hasattr(model, "aux_logits") else ""
    else:
        drop = "make its forward give the logits in both modes"
    return f"in train mode it gives {given}, not logits [N, K]; {drop}"

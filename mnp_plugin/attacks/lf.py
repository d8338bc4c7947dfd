"""LF: a universal low-frequency pattern found on a clean model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import Attack, Images, State, Tools, attacks, param


@attacks.register("lf")
@dataclass(frozen=True, kw_only=True)
class LowFrequency(Attack):
    """x' = clip(x + v), with a smooth universal pattern v in [0, ``strength``] that drives a clean model to the target.

    v grows over a few training images: for each that the clean model does not yet send to the target, the targeted DeepFool
    step, smoothed by a Gaussian of 6/32 of the image side, is added. At the end v is smoothed again and stretched to
    [0, ``strength``]. Passes stop when the share of images sent to the target no longer grows.

    Deviations: the source is the benchmark's clean model; the Gaussian is not cut off at 30 pixels.
    """

    paper = "Zeng et al., Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective, ICCV 2021, arXiv 2104.03413"

    strength: float = param(0.2, "largest value of the pattern, in [0, 1] units", above=0, high=1)
    images: int = param(100, "training images the pattern is found on", low=1)
    passes: int = param(50, "most passes over them", low=1)
    deepfool_steps: int = param(50, "most DeepFool steps per image", low=1)
    overshoot: float = param(0.02, "share that each DeepFool step goes too far", low=0, high=1)

    def prepare(self, train: Images, tools: Tools) -> State:
        model = tools.clean_net().requires_grad_(False)
        chosen = torch.randperm(len(train), generator=tools.generator, device=tools.device)[: self.images]
        x = train.x[chosen].float() / 255
        c, h, w = x.shape[1:]
        smooth_rows, smooth_columns = (_gaussian(side, tools.device) for side in (h, w))
        v = torch.zeros(1, c, h, w, device=tools.device)
        best = -1.0
        for done in range(self.passes):
            tools.busy("low-frequency pattern", done, self.passes)
            for i in range(len(x)):
                step = self._deepfool(model, (x[i : i + 1] + v).clamp(0, 1))
                v = v + smooth_rows @ step @ smooth_columns.T
            with torch.no_grad():
                sent = float((model((x + v).clamp(0, 1)).argmax(1) == self.target).float().mean())
            if sent <= best + 0.01:
                break
            best = sent
        v = smooth_rows @ v @ smooth_columns.T
        spread = (v.max() - v.min()).clamp(min=1e-12)
        return {"pattern": (self.strength * (v - v.min()) / spread)[0]}

    def _deepfool(self, model: nn.Module, x: Tensor) -> Tensor:
        """The smallest step, to first order, that sends ``x`` [1, C, H, W] to the target; zero if it goes there already."""
        total = torch.zeros_like(x)
        for _ in range(self.deepfool_steps):
            moved = (x + (1 + self.overshoot) * total).requires_grad_(True)
            out = model(moved)[0]
            now = int(out.argmax())
            if now == self.target:
                break
            gap = out[self.target] - out[now]
            (w,) = torch.autograd.grad(gap, moved)
            total = total + (gap.detach().abs() + 1e-4) / w.square().sum().clamp(min=1e-12) * w
        return (1 + self.overshoot) * total

    def apply(self, x: Tensor, state: State) -> Tensor:
        return (x + state["pattern"].to(x)).clamp(0, 1)


def _gaussian(side: int, device: torch.device) -> Tensor:
    """The matrix that smooths one axis of ``side`` pixels, zero beyond the border."""
    position = torch.arange(side, device=device, dtype=torch.float32)
    sigma = 6 * side / 32
    kernel = torch.exp(-((position.view(-1, 1) - position) ** 2) / (2 * sigma**2))
    return kernel / (sigma * math.sqrt(2 * math.pi))

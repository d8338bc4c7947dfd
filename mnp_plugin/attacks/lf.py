"""LF: a universal low-frequency pattern found on a clean model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import Attack, AttackContext, Images, MethodError, Requires, State, attacks, param


@attacks.register("lf")
@dataclass(frozen=True, kw_only=True)
class LowFrequency(Attack):
    """x' = clip(x + v), with a smooth universal pattern v in [0, ``strength``] that drives a clean model to the target.

    v grows over a few training images: for each whose prediction it does not yet change, the targeted DeepFool step,
    smoothed by a Gaussian of 6/32 of the image side, is added; then v is smoothed again and stretched to [0, ``strength``],
    all channels together. Passes stop when the share of predictions that v changes stays within 1 % of the pass before.

    Deviations: the source is the benchmark's clean model; the Gaussian is not cut off at 30 pixels; DeepFool looks at
    images clipped to [0, 1], and the share of changed predictions is taken over the images of the pattern, not over others. The
    authors stop as soon as v changes 20 % of the predictions; BackdoorBench then, too, or when five passes agree within 1 %.
    Images come in one order; one that is at the target already is passed over.
    """

    paper = "Zeng et al., Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective, ICCV 2021, arXiv 2104.03413"

    strength: float = param(0.2, "largest value of the pattern, in [0, 1] units", above=0, high=1)
    images: int = param(100, "training images the pattern is found on", low=1)
    passes: int = param(50, "most passes over them", low=1)
    deepfool_steps: int = param(200, "most DeepFool steps per image; one that takes more is left out", low=1)
    overshoot: float = param(0.02, "share that each DeepFool step goes too far", low=0, high=1)

    def requires(self) -> Requires:
        return Requires(clean_net=True)

    def prepare(self, train: Images, tools: AttackContext) -> State:
        model = tools.clean_net().requires_grad_(False)
        chosen = torch.randperm(len(train), generator=tools.generator, device=tools.device)[: self.images]
        x = train.x[chosen].float() / 255
        logits: Tensor = model(x)
        before = logits.argmax(1)
        goal = self.attack_labels(train.y[chosen], logits.shape[1]).tolist()
        c, h, w = x.shape[1:]
        rows, columns = (_gaussian(side, tools.device) for side in (h, w))
        v = torch.zeros(1, c, h, w, device=tools.device)
        last = -1.0
        for done in range(self.passes):
            tools.busy("low-frequency pattern", done, self.passes)
            for i, target in enumerate(goal):
                moved = (x[i : i + 1] + v).clamp(0, 1)
                step = self._deepfool(model, moved, target) if bool(model(moved).argmax() == before[i]) else None
                if step is not None:
                    v = rows @ (v + rows @ step @ columns.T) @ columns.T
                    v = self.strength * (v - v.min()) / (v.max() - v.min()).clamp(min=1e-12)
            changed = float((model((x + v).clamp(0, 1)).argmax(1) != before).float().mean())
            if abs(changed - last) < 0.01:
                break
            last = changed
        if not v.any():
            raise MethodError("attack 'lf' found no pattern: DeepFool sends none of its images to the target")
        return {"pattern": v[0]}

    def _deepfool(self, model: nn.Module, x: Tensor, target: int) -> Tensor | None:
        """The smallest step, to first order, that sends ``x`` [1, C, H, W] to ``target``.

        None if it goes there already, or does not get there in ``deepfool_steps``.
        """
        total = torch.zeros_like(x)
        for done in range(self.deepfool_steps + 1):
            moved = (x + (1 + self.overshoot) * total).requires_grad_(True)
            out = model(moved)[0]
            now = int(out.argmax())
            if now == target:
                return (1 + self.overshoot) * total if done else None
            gap = out[target] - out[now]
            (w,) = torch.autograd.grad(gap, moved)
            total = total + (gap.detach().abs() + 1e-4) / w.square().sum().clamp(min=1e-12) * w
        return None

    def apply(self, x: Tensor, state: State) -> Tensor:
        return (x + state["pattern"].to(x)).clamp(0, 1)


def _gaussian(side: int, device: torch.device) -> Tensor:
    """The matrix that smooths one axis of ``side`` pixels, zero beyond the border."""
    position = torch.arange(side, device=device, dtype=torch.float32)
    sigma = 6 * side / 32
    kernel = torch.exp(-((position.view(-1, 1) - position) ** 2) / (2 * sigma**2))
    return kernel / (sigma * math.sqrt(2 * math.pi))

"""TRODO: a small perturbation makes a backdoored net sure of images that it should not know."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, DefenseContext, Detector, Verdict, concat, detectors, param
from mnp_plugin.training.passes import forward


@detectors.register("trodo")
@dataclass(frozen=True, kw_only=True)
class Trodo(Detector):
    """Images near the clean ones but of no class: turned by quarters, with a patch of themselves pasted elsewhere
    (CutPaste). PGD raises the net's largest probability on each; the score is the mean gain. It names no class.

    Constants of rohban-lab/TRODO 91e468e (its notebook: eps 2/255, ten steps of a quarter of it). A threshold must come from
    clean nets of the same kind: there is none by default. Deviations: both distortions on each image, where
    the authors draw one of several; at most ``images`` of them, where they take 1 % of the training set; PGD starts at the image,
    there at a random place near it. All in float32: in bfloat16 a step is about as large as a pixel's last digit.
    """

    version = 2
    paper = "Mirzaei et al., Scanning Trojaned Models Using Out-of-Distribution Samples, NeurIPS 2024, arXiv 2501.17151"

    images: int = param(200, "most images", low=1)
    eps: float = param(2 / 255, "largest change of a pixel", above=0, high=1)
    steps: int = param(10, "steps of PGD, each a quarter of eps", low=1)
    threshold: float | None = param(None, "a gain above this calls a net backdoored; null: no decision")

    def inspect(self, view: DefenderView, tools: DefenseContext) -> Verdict:
        model = view.model.requires_grad_(False)
        tools = replace(tools, recipe=replace(tools.recipe, precision="float32"))
        budget = concat([view.clean, view.validation])
        order = torch.randperm(len(budget), generator=tools.generator, device=tools.device)
        gains = []
        parts = budget[order[: self.images]].pixels().split(100)  # type: ignore[no-untyped-call]
        for number, part in enumerate(parts):
            gains.append(self.gain(model, strange(part, tools), tools))
            tools.busy("images out of distribution", number + 1, len(parts))
        gain = torch.cat(gains)
        return Verdict(
            score=float(gain.mean()),
            threshold=self.threshold,
            calibration="" if self.threshold is None else "threshold given by the user",
            report={"images": len(gain), "spread": round(float(gain.std(unbiased=False)), 4)},
        )

    def gain(self, model: nn.Module, x: Tensor, tools: DefenseContext) -> Tensor:
        """How much PGD raises the largest probability of each image, [N]."""
        moved, first = x, None
        for step in range(self.steps + 1):
            moved = moved.detach().requires_grad_(True)
            sure = forward(model, moved, tools).log_softmax(1).max(1).values
            first = sure.detach() if first is None else first
            if step == self.steps:
                break
            (slope,) = torch.autograd.grad(sure.sum(), moved)
            moved = (moved.detach() + self.eps / 4 * slope.sign()).clamp(x - self.eps, x + self.eps).clamp(0, 1)
        assert first is not None
        found: Tensor = sure.detach().exp() - first.exp()
        return found


def strange(x: Tensor, tools: DefenseContext) -> Tensor:
    """Square images turned, others mirrored upside down, each with a patch of a third of its side pasted elsewhere."""
    height, width = x.shape[-2:]
    if height == width:
        turns = torch.randint(1, 4, (len(x),), generator=tools.generator, device=tools.device).tolist()
        out = torch.stack([torch.rot90(image, turn, (1, 2)) for image, turn in zip(x, turns, strict=True)])
    else:
        out = x.flip(2)
    high, wide = max(1, height // 3), max(1, width // 3)
    spots = torch.rand(len(x), 4, generator=tools.generator, device=tools.device)
    rooms = torch.tensor([height - high + 1, width - wide + 1] * 2, device=tools.device)
    pasted = out.clone()
    for i, (top, left, row, column) in enumerate((spots * rooms).long().tolist()):
        pasted[i, :, row : row + high, column : column + wide] = out[i, :, top : top + high, left : left + wide]
    return pasted

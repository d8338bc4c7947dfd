"""NPD: one linear layer, put before a late convolution, that filters what adversarial examples use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.training.device import autocast, in_layout_of
from mnp_plugin.training.passes import descend, finite, one_pass


@defenses.register("npd")
@dataclass(frozen=True, kw_only=True)
class NPD(Defense):
    """Neural polarizer P, 1x1 and linear, from the identity, before a convolution of the frozen net; minimise
    CE(x, y) + l2 CE(x + d, v) + l3 H(x + d, w) + l4 H(x + d, t), H(., c) = -log(1.0001 - p_c), v the predicted class of x, w the
    likeliest class of x + d other than y, t the target of d. Probe: for each image the likeliest class but y is t; up to
    ``steps`` sign steps of 0.1 within ||d||_2 <= norm, until 60 % of the batch reach t; x + d is clipped to [0, 1]. SGD,
    momentum 0.9, weight decay 5e-4, after ``warm_epochs`` of cross entropy at 1e-4. No augmentation. Blind: the last epoch
    counts.

    Deviations: in BackdoorBench f02e353 a normalisation follows the 1x1 convolution; its shift cannot be folded through the
    zero padding of the next convolution, so P is the convolution alone, their variant "onlyconv". It is baked into the
    weights: W' = W P. The layer is layer4.1.conv1 on their PreActResNet-18, here the last convolution but one.
    """

    version = 4
    chooses = False
    paper = "Zhu et al., Neural Polarizer, NeurIPS 2023, arXiv 2306.16697"

    layer: str | None = param(None, "path of the convolution behind the polarizer; null: the last but one")
    epochs: int = param(50, "passes over the clean budget", low=1)
    warm_epochs: int = param(5, "passes at a small learning rate before", low=0)
    lr: float = param(0.01, "learning rate of the polarizer", low=0)
    norm: float = param(3.0, "largest L2 norm of the probe", low=0)
    steps: int = param(2, "steps of the probe", low=1)
    l2: float = param(0.4, "weight of CE on probed images", low=0)
    l3: float = param(0.4, "weight of pushing the wrong class down", low=0)
    l4: float = param(0.4, "weight of pushing the target down", low=0)
    batch_size: int = param(128, "images per step", low=2)

    def objection(self, model: nn.Module) -> str | None:
        layers = _convolutions(model)
        if len(layers) < 2:
            return "it has fewer than two ungrouped convolutions of more than one input"
        if self.layer is not None and self.layer not in layers:
            return f"it has no ungrouped convolution '{self.layer}'; there are {', '.join(layers)}"
        return None

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        model = view.model.requires_grad_(False).eval()
        name = self.layer or list(_convolutions(model))[-2]
        conv = _convolutions(model)[name]
        polarizer = torch.eye(conv.in_channels, device=tools.device, requires_grad=True)

        def net(x: Tensor) -> Tensor:
            with autocast(tools.recipe.precision, tools.device):
                weight = torch.einsum("oikl,ij->ojkl", conv.weight, polarizer)
                out: Tensor = functional_call(model, {f"{name}.weight": weight}, (in_layout_of(model, x),))
            return out.float()

        warm = torch.optim.SGD([polarizer], 1e-4)
        for _ in range(self.warm_epochs):
            for x, y in one_pass(model, view.clean, self.batch_size, tools, augment=False):
                descend(F.cross_entropy(net(x), y), warm)
        optimiser = torch.optim.SGD([polarizer], self.lr, momentum=0.9, weight_decay=5e-4)
        value = 0.0
        for epoch in range(self.epochs):
            for x, y in one_pass(model, view.clean, self.batch_size, tools, augment=False):
                loss = self.loss(net, x, y)
                descend(loss, optimiser)
            value = finite(loss, "the polarizer")
            tools.busy("epochs of the polarizer", epoch + 1, self.epochs)
        with torch.no_grad():
            conv.weight.copy_(torch.einsum("oikl,ij->ojkl", conv.weight, polarizer))
            moved = (polarizer - torch.eye(conv.in_channels, device=tools.device)).norm()
        return Purified(model=model, report={"layer": name, "epochs": self.epochs, "loss": value, "moved": float(moved)})

    def loss(self, net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        """The objective on one batch, its probe found anew."""
        out = net(x)
        first = out.detach()
        target = first.scatter(1, y.unsqueeze(1), -torch.inf).argmax(1)
        bad = net((x + self.probe(net, x, target)).clamp(0, 1))
        p = bad.softmax(1)
        wrong = p.detach().scatter(1, y.unsqueeze(1), -1.0).argmax(1)
        value = F.cross_entropy(out, y) + self.l2 * F.cross_entropy(bad, first.argmax(1))
        return value + self.l3 * _unlikely(p, wrong) + self.l4 * _unlikely(p, target)

    def probe(self, net: Callable[[Tensor], Tensor], x: Tensor, target: Tensor) -> Tensor:
        """Perturbation of each image towards ``target``, ||d||_2 <= norm."""
        delta = torch.zeros_like(x)
        for _ in range(self.steps):
            delta.requires_grad_(True)
            out = net((x + delta).clamp(0, 1))
            if float((out.argmax(1) == target).float().mean()) > 0.6:
                break
            delta = delta.detach() - 0.1 * torch.autograd.grad(F.cross_entropy(out, target), delta)[0].sign()
            length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            delta = delta * (self.norm / length.clamp(min=1e-12)).clamp(max=1)
        return delta.detach()


def _convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Ungrouped spatial convolutions (shortcut projections of 1x1 left out) of more than one input, by path."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1 and m.in_channels > 1}
    return {n: m for n, m in found.items() if max(m.kernel_size) > 1}


def _unlikely(p: Tensor, label: Tensor) -> Tensor:
    return -(1.0001 - p.gather(1, label.unsqueeze(1))).log().mean()

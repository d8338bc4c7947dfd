"""IMS: masks whose inverse must keep the backdoor and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.training.device import autocast, in_layout_of
from mnp_plugin.training.passes import descend, finite, forward, one_pass
from mnp_plugin.training.source_models import few_convolutions


@defenses.register("ims")
@dataclass(frozen=True, kw_only=True)
class IMS(Defense):
    """Invertible masks a and selections s in [0, 1] on the output of every convolution, both from 1. With
    g(u) = sigmoid(k (u - 1/2)) the masked net M uses g(a) + s (1 - g(a)), its inverse I uses g(1 - a) + s (1 - g(1 - a)).

    On softmax outputs, no labels: agree(p, q) = -log <p, q>, differ(p, q) = -log(1 - <p, q>); V is the victim, d a
    perturbation per image, found anew in each round by AdamW on agree(I(x+d), V(x+d)) + differ(V(x+d), V(x)).
    Stage 0: agree(M(x), V(x)) + differ(I(x), V(x)) + l1 mean|1 - s|. Stages 1 (without the l1 term) and 2 (with it):
    agree(M(x), V(x)) + agree(M(x+d), V(x)) + agree(I(x+d), V(x+d)) + differ(I(x), V(x)) + differ(I(x+d), V(x)) + l1 term.
    AdamW on a and s, new for each stage, eval mode, no augmentation, soft masks kept. Blind: a stage ends when its loss has
    not fallen by 2 % for ``patience`` rounds.

    Facts from WhoDunnett/BackdoorBenchmark 8613640. Deviations: it searches d in stage 0 too, which only its log uses,
    so d is not searched there here; a batch is one of a shuffled pass, not drawn anew from all images. On transformers the
    authors mask the outputs of blocks (another script); these are refused here.
    """

    paper = "Dunnett et al., Backdoor Mitigation via Invertible Pruning Masks, NeurIPS 2025, arXiv 2509.15497"
    version = 2
    chooses = False

    k: float = param(20.0, "steepness of the masks", above=0)
    l1: float = param(10.0, "weight of the selection's distance from 1", low=0)
    norm: float = param(1.0, "largest change of a pixel", low=0)
    lr: float = param(0.02, "learning rate of masks and selections", low=0)
    perturbation_lr: float = param(0.001, "learning rate of the perturbation", low=0)
    perturbation_steps: int = param(20, "steps of the perturbation in each round", low=1)
    first_rounds: int = param(100, "largest number of rounds of stage 0", low=1)
    rounds: int = param(200, "largest number of rounds of stages 1 and 2 each", low=1)
    patience: int = param(25, "rounds without progress that end a stage", low=1)
    batch_size: int = param(256, "images per round", low=2)

    def objection(self, model: nn.Module) -> str | None:
        return few_convolutions(model, "to mask")

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        model = view.model.requires_grad_(False).eval()
        sizes = {name: m.out_channels for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        both = torch.ones(2, sum(sizes.values()), device=tools.device, requires_grad=True)
        images = self._endless(view, tools)
        done = [self._stage(model, sizes, both, stage, images, tools) for stage in range(3)]
        factor = self.factor(both.detach(), inverse=False)
        changed = _scaled(model, sizes, factor)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in changed:
                    p.copy_(changed[name])
        report = {"rounds": done, "mean_factor": float(factor.mean()), "below_half": int((factor < 0.5).sum())}
        return Purified(model=model, report=report | {"of": len(factor)})

    def _endless(self, view: DefenderView, tools: DefenseContext) -> Iterator[Tensor]:
        while True:
            for x, _ in one_pass(view.model, view.clean, self.batch_size, tools, augment=False, rest=False):
                yield x

    def factor(self, both: Tensor, *, inverse: bool) -> Tensor:
        """What masked channels are multiplied by, [channels]; ``both``: masks and selections, [2, channels]."""
        mask, selection = both
        soft = torch.sigmoid(self.k * ((1 - mask if inverse else mask) - 0.5))
        out: Tensor = soft + selection * (1 - soft)
        return out

    def _stage(
        self, model: nn.Module, sizes: dict[str, int], both: Tensor, stage: int, images: Iterator[Tensor], tools: DefenseContext
    ) -> int:
        """Optimise ``both`` in place; the rounds it took."""
        limit = self.rounds if stage else self.first_rounds
        optimiser = torch.optim.AdamW([both], self.lr)
        best, waited = float("inf"), 0

        def net(x: Tensor, inverse: bool) -> Tensor:
            with autocast(tools.recipe.precision, tools.device):
                factor = self.factor(both, inverse=inverse)
                out: Tensor = functional_call(model, _scaled(model, sizes, factor), (in_layout_of(model, x),))
            return out.float()

        for number in range(limit):
            x = next(images)
            victim = forward(model, x, tools)
            loss = _agree(net(x, False), victim) + _differ(net(x, True), victim)
            if stage:
                bad = x + self._perturbation(model, net, x, victim, tools)
                inverse = net(bad, True)
                loss = loss + _agree(net(bad, False), victim)
                loss = loss + _agree(inverse, forward(model, bad, tools)) + _differ(inverse, victim)
            if stage != 1:
                loss = loss + self.l1 * (1 - both[1]).abs().mean()
            descend(loss, optimiser)
            both.data.clamp_(0, 1)
            value = finite(loss, f"stage {stage} of the masks")
            tools.busy(f"mask rounds of stage {stage}", number + 1, limit)
            best, waited = (value, 0) if value < 0.98 * best else (best, waited + 1)
            if waited > self.patience:
                return number + 1
        return limit

    def _perturbation(self, model: nn.Module, net, x: Tensor, victim: Tensor, tools: DefenseContext) -> Tensor:  # type: ignore[no-untyped-def]
        delta = torch.zeros_like(x, requires_grad=True)
        optimiser = torch.optim.AdamW([delta], self.perturbation_lr)
        for _ in range(self.perturbation_steps):
            seen = forward(model, x + delta, tools)
            loss = _agree(net(x + delta, True), seen) + _differ(seen, victim)
            delta.grad = torch.autograd.grad(loss, delta)[0]
            optimiser.step()
            delta.data.clamp_(-self.norm, self.norm)
        return delta.detach()


def _scaled(model: nn.Module, sizes: dict[str, int], factor: Tensor) -> dict[str, Tensor]:
    """Weights and biases of the convolutions ``sizes``, their output channels times ``factor``."""
    changed = {}
    for (name, _), part in zip(sizes.items(), factor.split(list(sizes.values())), strict=True):  # type: ignore[no-untyped-call]
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        changed[f"{name}.weight"] = conv.weight * part.view(-1, 1, 1, 1)
        if conv.bias is not None:
            changed[f"{name}.bias"] = conv.bias * part
    return changed


def _agree(a: Tensor, b: Tensor) -> Tensor:
    return -((a.softmax(1) * b.softmax(1)).sum(1) + 1e-8).log().mean()


def _differ(a: Tensor, b: Tensor) -> Tensor:
    return -(1 - (a.softmax(1) * b.softmax(1)).sum(1) + 1e-8).log().mean()

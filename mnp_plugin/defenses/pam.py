"""PAM: unlearn an inverted trigger by gradients taken on the way back to the victim."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.training.decoupling import Decoupling, Inverter
from mnp_plugin.training.device import in_layout_of
from mnp_plugin.training.passes import finite, forward, one_pass
from mnp_plugin.training.source_models import no_head


@defenses.register("pam")
@dataclass(frozen=True, kw_only=True)
class PAM(Defense):
    """Path-aware minimization: each step takes its gradient at w + rho (w0 - w) / ||w0 - w||, w0 the victim, and applies it at w
    by SGD (momentum 0.1), so that w leaves the path of small loss along which few poisoned images lead back to the backdoor.

    Loss: cross entropy, a share of each batch replaced by the trigger that BTI-DBF's generator has found, truly labelled; train
    mode. ``rounds`` rounds of inversion and unlearning; blind: the last epoch counts.

    Facts from AISafety-HKUST/stable_backdoor_purification 37d2ef5, whose script has rho 0.5 and 3 rounds; deviations of the
    inversion in :mod:`mnp_plugin.training.decoupling`. The authors raise rho by hand where retuning succeeds; here it is one for
    all attacks. Their generator is frozen by the first unlearning, so that later rounds use it as it is, which is taken for a
    slip; here each round inverts anew. Their images are normalised by a variance of 0.06, so that it may move pixels by more; and
    2 500 images make 20 steps a pass, where 500 make 4 (see ``bti-dbf``).
    """

    version = 4
    chooses = False
    paper = (
        "Min et al., Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense, NeurIPS 2024, "
        "arXiv 2410.09838"
    )

    rho: float = param(0.5, "length of the way towards the victim", low=0)
    rounds: int = param(3, "rounds of inversion and unlearning", low=1)
    width: int = param(32, "channels of the generator's first block", low=1)
    pretrain_epochs: int = param(50, "passes that make the generator an identity", low=1)
    mask_epochs: int = param(20, "passes of the mask in each round", low=1)
    generator_epochs: int = param(30, "passes of the generator in each round", low=1)
    epochs: int = param(30, "passes of unlearning in each round", low=1)
    lr: float = param(0.01, "learning rate of unlearning", low=0)
    share: float = param(0.2, "share of a batch that carries the found trigger, and one image more", low=0, high=1)
    batch_size: int = param(128, "images per step", low=2)

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "whose input to decouple")

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        model = view.model
        how = Decoupling(
            width=self.width,
            pretrain=self.pretrain_epochs,
            mask=self.mask_epochs,
            passes=self.generator_epochs,
            batch_size=self.batch_size,
        )
        start = [p.detach().clone() for p in model.parameters()]
        inverter = Inverter(view.clean, how, tools)
        inverter.pretrain(model)
        optimiser = torch.optim.SGD(model.parameters(), self.lr, momentum=0.1)
        value = torch.zeros(())
        for number in range(self.rounds):
            inverter.invert(model)
            model.train()
            for _ in range(self.epochs):
                for x, y in one_pass(model, view.clean, self.batch_size, tools):
                    mixed = in_layout_of(model, inverter.mixed(x, self.share))
                    here = self.step_back(model, start)
                    value = F.cross_entropy(forward(model, mixed, tools), y)
                    optimiser.zero_grad(set_to_none=True)
                    value.backward()  # type: ignore[no-untyped-call]
                    with torch.no_grad():
                        for p, own in zip(model.parameters(), here, strict=True):
                            p.copy_(own)
                    optimiser.step()
            tools.busy("rounds of unlearning", number + 1, self.rounds)
        moved = torch.stack([(p - s).detach().norm() for p, s in zip(model.parameters(), start, strict=True)]).norm()
        report = {"target": inverter.target, "loss": finite(value, "unlearning"), "distance": finite(moved, "unlearning")}
        return Purified(model=model, report=report)

    def step_back(self, model: nn.Module, start: list[torch.Tensor]) -> list[torch.Tensor]:
        """Move the weights ``rho`` towards ``start``, in place; returns where they were."""
        here = [p.detach().clone() for p in model.parameters()]
        way = [s - h for s, h in zip(start, here, strict=True)]
        length = torch.stack([w.norm() for w in way]).norm() + 1e-12
        with torch.no_grad():
            for p, w in zip(model.parameters(), way, strict=True):
                p.add_(w, alpha=self.rho / float(length))
        return here

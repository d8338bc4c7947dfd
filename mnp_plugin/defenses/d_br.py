"""D-BR: find poisoned images by how much their features change under a transformation, unlearn them, relearn clean ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenseContext, Images, Purified, TrainingSetDefense, TrainingView, defenses, param
from mnp_plugin.training.device import in_layout_of
from mnp_plugin.training.loop import fit
from mnp_plugin.training.passes import descend, finite, forward, one_pass
from mnp_plugin.training.retraining import features_of
from mnp_plugin.training.source_models import features, no_head


@defenses.register("d-br")
@dataclass(frozen=True, kw_only=True)
class DBR(TrainingSetDefense):
    """(1) Train a fresh net on the poisoned set for ``epochs``, without augmentation. (2) Pull its classes apart: minimise the
    mean cosine between mean features of the classes of a batch. (3) Of each image, the mean squared change of its features under
    a random rotation (180 degrees) and shift (a fifth of the side): the ``poisoned`` share that changes most is D_p, the
    ``clean`` share that changes least D_c. (4) In the victim: each epoch one pass of ascent of CE on D_p, then one of descent on
    D_c, train mode, SGD of momentum 0.9 and weight decay 5e-4. Blind: the last epoch counts.

    Facts from SCLBD/BackdoorBench f02e353, where (1) has 2 passes and (2) 10. Deviations: rotation and shift are one bilinear
    warp, there two to the nearest pixel, and drawn once, where there a second draw picks the images; momentum of (1) and (2) is
    Nesterov's and new in (2). The authors' own code keeps the epoch of the largest test ACC - ASR.
    """

    paper = "Chen, Wu, Wang, Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples, NeurIPS 2022"
    version = 3

    epochs: int = param(2, "passes of the net that tells images apart", low=1)
    apart_epochs: int = param(10, "passes that pull its classes apart", low=0)
    lr: float = param(0.01, "learning rate of both", above=0)
    clean: float = param(0.2, "share of the images taken for clean", above=0, high=0.9)
    poisoned: float = param(0.05, "share of the images taken for poisoned", above=0, high=0.9)
    unlearning_epochs: int = param(20, "epochs of unlearning and relearning", low=1)
    unlearning_lr: float = param(1e-4, "their learning rate", low=0)
    batch_size: int = param(128, "images per step", low=2)

    def objection(self, model: nn.Module) -> str | None:
        return no_head(model, "whose input to look at")

    def treat(self, view: TrainingView, tools: DefenseContext) -> Purified:
        change = self.sensitivity(view.train, tools)
        order = change.argsort()
        clean = view.train[order[: max(1, int(self.clean * len(order)))]]
        poisoned = view.train[order[-max(1, int(self.poisoned * len(order))) :]]
        model = view.model.train()
        optimiser = torch.optim.SGD(model.parameters(), self.unlearning_lr, momentum=0.9, weight_decay=5e-4)
        value = torch.zeros(())
        for epoch in range(self.unlearning_epochs):
            for images, sign in ((poisoned, -1), (clean, 1)):
                for x, y in one_pass(model, images, self.batch_size, tools):
                    value = sign * F.cross_entropy(forward(model, x, tools), y)
                    descend(value, optimiser)
            finite(value, "unlearning")
            tools.busy("unlearning and relearning", epoch + 1, self.unlearning_epochs)
        report = {"clean": len(clean), "poisoned": len(poisoned), "of": len(order), "loss": finite(value, "unlearning")}
        return Purified(
            model=model, report=report | {"poisoned_by_class": poisoned.y.bincount(minlength=view.num_classes).tolist()}
        )

    def sensitivity(self, images: Images, tools: DefenseContext) -> Tensor:
        """Mean squared change of each image's features under a random rotation and shift, [N]."""
        model = tools.fresh_net()
        recipe = tools.recipe.for_tuning(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        plain = replace(recipe, crop=0, flip=False, warmup=0.0)
        even = partial(fit, model, images, generator=tools.generator, schedule=lambda step, steps, recipe: 1.0)
        even(recipe=plain, progress=lambda done, n, loss: tools.busy("telling apart", done, n))
        if self.apart_epochs:
            apart = replace(plain, epochs=self.apart_epochs)
            even(recipe=apart, loss=_alike, progress=lambda done, n, loss: tools.busy("apart", done, n))
        before = features_of(model, images)
        parts = []
        with torch.no_grad():
            for part, own in zip(images.x.split(500), before.split(500), strict=True):  # type: ignore[no-untyped-call]
                moved = warped(part.float() / 255, tools)
                parts.append((features(model, in_layout_of(model, moved)) - own).square().mean(1))
        return torch.cat(parts)


def warped(x: Tensor, tools: DefenseContext) -> Tensor:
    """``x`` [N, C, H, W], each image rotated by up to 180 degrees and shifted by up to a fifth of its side; black outside."""
    drawn = 2 * torch.rand(3, len(x), generator=tools.generator, device=x.device) - 1
    angle, shift = math.pi * drawn[0], 0.4 * drawn[1:]  # in units of half a side
    turn = torch.stack([angle.cos(), -angle.sin(), shift[0], angle.sin(), angle.cos(), shift[1]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(turn, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _alike(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cosine between the classes' mean features, the diagonal counted as 0."""
    found = features(model, x).float()
    centres = torch.stack([found[y == label].mean(0) for label in y.unique()])  # type: ignore[no-untyped-call]
    cosines = F.normalize(centres, dim=1) @ F.normalize(centres, dim=1).T
    return (cosines - torch.diag(cosines.diag())).mean()

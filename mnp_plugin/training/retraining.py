"""What defenses of the training set share: features of all its images, and a net trained anew on those that are left."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import DefenseContext, Images, TrainingView
from mnp_plugin.training.device import at_once, in_layout_of
from mnp_plugin.training.loop import fit
from mnp_plugin.training.source_models import features


def features_of(model: nn.Module, images: Images) -> Tensor:
    """What enters the head, float32 [N, D], in eval mode, without augmentation or gradients."""
    model.eval()
    size = at_once(images.x)
    with torch.no_grad():
        parts = [features(model, in_layout_of(model, images[i : i + size].pixels())).float() for i in range(0, len(images), size)]
    return torch.cat(parts)


def retrained(view: TrainingView, keep: Tensor, tools: DefenseContext) -> nn.Module:
    """A fresh net, trained by the benchmark's recipe on the training images that ``keep`` (bool [N]) leaves."""
    model = tools.fresh_net()
    fit(
        model,
        view.train[keep.nonzero().flatten()],
        tools.recipe,
        tools.generator,
        progress=lambda done, epochs, loss: tools.busy("retraining", done, epochs),
    )
    return model

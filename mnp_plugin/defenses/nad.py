"""NAD: distil the attention of a fine-tuned teacher into the victim."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Purified, defenses, param
from mnp_plugin.training.loop import fit
from mnp_plugin.training.source_models import few_convolutions


@defenses.register("nad")
@dataclass(frozen=True, kw_only=True)
class NAD(Defense):
    """Cross entropy + sum over three maps of beta * MSE(A(student), A(teacher)), A = channel sum of |F|^p, unit l2 norm.

    The teacher is the victim fine-tuned on the clean budget. Maps are the ends of the last three stages above 1x1 (layer2,
    layer3, layer4 of a ResNet). BackdoorBench's third on PreActResNet-18 is 1x1, so that its term has no gradient. MSE is
    the mean over pixels, as there and in the authors' code, whose maps are twice as wide as those of a ResNet-18: each term
    weighs four times theirs.

    Deviations: the learning rate warms up to 0.01 and falls along a cosine; the authors have 0.1 for two epochs and then
    0.01, in sum over the steps 3.7 times as much, BackdoorBench a constant 0.01 and plain momentum. The authors' Cutout is
    left out; weight decay is the recipe's.
    """

    paper = "Li et al., Neural Attention Distillation, ICLR 2021, arXiv 2101.05930"
    version = 4
    chooses = False

    teacher_epochs: int = param(10, "passes of fine-tuning that make the teacher", low=1)
    epochs: int = param(20, "passes of distillation", low=1)
    lr: float = param(0.01, "peak learning rate of both", above=0)
    batch_size: int = param(64, "images per step", low=2)
    betas: tuple[float, ...] = param((500.0, 1000.0, 1000.0), "weights of the maps, from the lowest up", low=0)
    power: float = param(2.0, "exponent p of the attention map", above=0)

    def objection(self, model: nn.Module) -> str | None:
        return few_convolutions(model, "whose feature maps to compare")

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        recipe = tools.recipe.for_tuning(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
        teacher = copy.deepcopy(view.model)
        fit(teacher, view.clean, replace(recipe, epochs=self.teacher_epochs), tools.generator, rest=True)
        teacher.requires_grad_(False).eval()
        names = tap_names(view.model, view.clean[:1].pixels(), len(self.betas))
        betas = self.betas[-len(names) :]
        with ExitStack() as stack:
            seen, wanted = (_listen(net, names, stack) for net in (view.model, teacher))

            def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
                value = F.cross_entropy(model(x), y)
                with torch.no_grad():
                    teacher(x)
                for beta, name in zip(betas, names, strict=True):
                    value = value + beta * F.mse_loss(self.attention(seen[name]), self.attention(wanted[name]))
                return value

            fit(view.model, view.clean, recipe, tools.generator, rest=True, loss=loss)
        return Purified(model=view.model, report={"maps": names, "epochs": self.epochs})

    def attention(self, feature: Tensor) -> Tensor:
        """Attention map of a feature map [N, C, H, W]: [N, H * W], each of unit l2 norm."""
        return F.normalize(feature.float().abs().pow(self.power).sum(1).flatten(1), dim=1, eps=1e-6)


def tap_names(model: nn.Module, example: Tensor, count: int) -> list[str]:
    """Paths of the modules that end the last ``count`` stages above 1x1.

    A stage gives a map and works at one resolution, or at two if it enters the next. Whatever gives none, or holds convolutions
    of three resolutions or more, holds stages.
    """
    finished: list[tuple[str, tuple[int, int]]] = []
    resolutions: dict[str, set[tuple[int, int]]] = {}
    with ExitStack() as stack:
        for name, module in model.named_modules():

            def note(module: nn.Module, _i: object, out: object, name: str = name) -> None:
                if not (isinstance(out, Tensor) and out.ndim == 4):
                    return
                size = (out.shape[-2], out.shape[-1])
                finished.append((name, size))
                parts = name.split(".")
                for end in range(1, len(parts)) if isinstance(module, nn.Conv2d) and max(size) > 1 else ():
                    resolutions.setdefault(".".join(parts[:end]), set()).add(size)

            stack.callback(module.register_forward_hook(note).remove)
        with torch.no_grad():
            model.eval()(example)
    maps = {name for name, _ in finished}

    def holds_stages(name: str) -> bool:
        return name not in maps or len(resolutions.get(name, ())) > 2

    last: dict[tuple[int, int], str] = {}
    least = max(size for _, size in finished)
    for name, size in finished:
        parts = name.split(".")
        outer = (".".join(parts[:end]) for end in range(1, len(parts)))
        if not holds_stages(name) and all(map(holds_stages, outer)) and size <= least:  # what grows is a pool's copy
            last[size], least = name, size
    return [name for size, name in last.items() if max(size) > 1][-count:]


def _listen(model: nn.Module, names: list[str], stack: ExitStack) -> dict[str, Tensor]:
    """A dictionary that each forward pass fills with the outputs of the modules ``names``."""
    outputs: dict[str, Tensor] = {}
    for name in names:

        def keep(_m: nn.Module, _i: object, out: Tensor, name: str = name) -> None:
            outputs[name] = out

        stack.callback(model.get_submodule(name).register_forward_hook(keep).remove)
    return outputs

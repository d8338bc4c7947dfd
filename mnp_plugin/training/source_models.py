"""What attacks build on a source model: adversarial examples, a robust net, the features under the head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import Asset, AttackContext, Images, MethodError, State, TrainingHook
from mnp_plugin.io.tensors import part, prefixed
from mnp_plugin.training.device import place
from mnp_plugin.training.loop import fit


def pgd(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step: float, steps: int, start: torch.Generator | None = None
) -> Tensor:
    """Untargeted l_inf adversarial examples: ascent on the cross entropy of the true label.

    The net is used in the mode it is in; its parameters receive no gradient.

    Args:
        model: takes float32 [N, C, H, W] in [0, 1].
        x: the images, float32 in [0, 1].
        y: true labels, int64 [N].
        eps: radius, in [0, 1] units.
        step: step of the sign of the gradient.
        steps: number of steps.
        start: stream of a random start in the ball; none starts at the image.

    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, arXiv 1706.06083.
    """
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    out = x.clone()
    if start is not None:
        out = (out + eps * (2 * torch.rand(x.shape, generator=start, device=x.device) - 1)).clamp(0, 1)
    for _ in range(steps):
        out.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(out), y), out)
        out = torch.minimum(torch.maximum(out.detach() + step * gradient.sign(), low), high)
    return out.detach()


class AdversarialTraining(TrainingHook):
    """Replaces every batch by its PGD examples with random start, made in eval mode."""

    def __init__(self, eps: float, step: float, steps: int, generator: torch.Generator) -> None:
        self.settings: dict[str, Any] = {"eps": eps, "step": step, "steps": steps, "start": generator}

    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        model.eval()
        out = pgd(model, x, y, **self.settings)
        model.train()
        return out, y


ROBUST = "robust net"


def robust_net(*, eps: float, steps: int) -> Asset:
    """A net of the victim's kind, adversarially trained on the training set by the benchmark's recipe, to be required."""

    def make(train: Images, own: AttackContext) -> State:
        model = own.fresh_net()
        hook = AdversarialTraining(eps, 2.5 * eps / steps, steps, own.generator)
        fit(model, train, own.recipe, own.generator, hook=hook, progress=lambda done, of, loss: own.busy(ROBUST, done, of))
        return model.state_dict()

    return Asset(name=ROBUST, settings={"version": 1, "eps": eps, "steps": steps}, make=make)


def required_robust_net(context: AttackContext) -> nn.Module:
    """The robust net that an attack required, on the context's device, in eval mode."""
    model = context.fresh_net()
    model.load_state_dict(context.asset(ROBUST))
    return place(model, context.device).eval()


def head_of(model: nn.Module) -> nn.Linear:
    """The last linear layer.

    Raises:
        MethodError: the net has none.
    """
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise MethodError("the net has no linear layer to take for its head")
    return linear[-1]


def no_head(model: nn.Module, purpose: str) -> str | None:
    """Objection of a method that works on the head: None, or that there is none ``purpose``, for instance "to look at"."""
    return None if any(isinstance(m, nn.Linear) for m in model.modules()) else f"it has no linear layer {purpose}"


def few_convolutions(model: nn.Module, purpose: str) -> str | None:
    """Objection of a method that works on feature maps: None, or that there are none ``purpose``; one cuts a ViT's patches."""
    enough = sum(isinstance(m, nn.Conv2d) for m in model.modules()) > 1
    return None if enough else f"it has fewer than two convolutions (Conv2d) {purpose}"


def entering(model: nn.Module, place: nn.Module, x: Tensor) -> Tensor:
    """What the module ``place`` of ``model`` is given for ``x``, with gradients."""
    seen: list[Tensor] = []
    handle = place.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        model(x)
    finally:
        handle.remove()
    return seen[-1]


def features(model: nn.Module, x: Tensor) -> Tensor:
    """What enters the head for ``x``: [N, D], with gradients."""
    return entering(model, head_of(model), x)


def packed(prefix: str, net: nn.Module) -> State:
    """The weights and buffers of ``net`` under ``prefix``, for a trigger's state."""
    return prefixed(prefix, {key: value.detach().clone() for key, value in net.state_dict().items()})


def unpacked(prefix: str, net: nn.Module, state: State, device: torch.device) -> nn.Module:
    """``net`` with the weights that :func:`packed` put under ``prefix``, on ``device``, in eval mode, without gradients."""
    net.load_state_dict(part(prefix, state))
    return net.to(device).eval().requires_grad_(False)


def packed_adam(prefix: str, optimiser: torch.optim.Adam) -> State:
    """The moments and step counts of ``optimiser`` under ``prefix``."""
    found = optimiser.state_dict()["state"]
    return {f"{prefix}.{i}.{key}": value.detach().clone() for i, moments in found.items() for key, value in moments.items()}


def restore_adam(prefix: str, optimiser: torch.optim.Adam, state: State) -> None:
    """Undo :func:`packed_adam`."""
    moments: dict[int, State] = {}
    for key, value in part(prefix, state).items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})

"""The one training loop: data stay on the device as uint8, augmentation runs there in batches; no DataLoader, no PIL."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import Images, MethodError, Recipe, State, TrainingHook
from mnp_plugin.data.augment import random_crop_flip, shrink
from mnp_plugin.io.tensors import part, prefixed
from mnp_plugin.training.device import autocast, layout_of, place

Progress = Callable[[int, int, float], None]
"""Called after each epoch: (epochs done, epochs in all, mean loss)."""


class InterruptedStateError(Exception):
    """What an interrupted training left does not fit this one."""


class Keeper(Protocol):
    """Keeps a training between epochs, so that an interrupted one goes on from there to the very same weights."""

    def load(self) -> State | None:
        """What was kept last, or None."""

    def save(self, state: State) -> None:
        """Called after every epoch but the last; may choose not to write each time."""


def count_batches(count: int, size: int, *, rest: bool) -> int:
    """How many batches :func:`batches` makes."""
    whole, left = divmod(count, size)
    return max(1, whole + (rest and left > 1))


def batches(count: int, size: int, generator: torch.Generator, device: torch.device, *, rest: bool = False) -> tuple[Tensor, ...]:
    """Shuffled index batches of ``size``, or of all there is.

    A smaller ``rest`` is left out unless wanted, and of one image always: batch normalisation needs two values.
    """
    order = torch.randperm(count, generator=generator, device=device)
    parts: tuple[Tensor, ...] = order.split(size)  # type: ignore[no-untyped-call]
    return parts[: count_batches(count, size, rest=rest)]


def one_cycle(step: int, steps: int, recipe: Recipe) -> float:
    """Factor of the peak learning rate at ``step``: linear warm-up, then cosine or linear decay to zero."""
    warm = recipe.warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    rest = (step - warm) / max(steps - warm, 1)
    return 0.5 * (1 + math.cos(math.pi * rest)) if recipe.schedule == "cosine" else 1 - rest


def fit(
    model: nn.Module,
    images: Images,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    hook: TrainingHook | None = None,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    progress: Progress | None = None,
    keep: Keeper | None = None,
    schedule: Callable[[int, int, Recipe], float] = one_cycle,
    rest: bool = False,
) -> None:
    """Train ``model`` in place.

    Args:
        model: takes float32 [N, C, H, W] in [0, 1]; moved to the device of ``images``.
        images: training set, on the device to train on.
        recipe: optimiser, schedule, augmentation.
        generator: random stream on the same device.
        hook: changes each batch (training-control attacks), before augmentation or after it, as the hook says.
        loss: (model, x, y) -> scalar; cross entropy with the recipe's smoothing if None.
        progress: told after every epoch.
        keep: what an interrupted training of the same arguments goes on from.
        schedule: (step, steps, recipe) -> factor of the recipe's learning rate; :func:`one_cycle` unless a recipe of others
            prescribes its own.
        rest: whether each epoch ends with what is left of the images, a smaller batch. Of a few clean images it is a large
            part; of a training set it is noise.

    Raises:
        MethodError: the loss is not finite.
        InterruptedStateError: what ``keep`` has is damaged, or of another training; ``model`` may be changed already.
    """
    device = images.x.device
    place(model, device, images[:2].pixels()).train()
    layout = layout_of(model)
    optimiser = torch.optim.SGD(
        model.parameters(),
        recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )
    per_epoch = count_batches(len(images), recipe.batch_size, rest=rest)
    first = _resume(keep, model, optimiser, generator, hook, recipe.epochs) if keep is not None else 0
    steps, step = recipe.epochs * per_epoch, first * per_epoch
    for epoch in range(first, recipe.epochs):
        total = torch.zeros((), device=device)
        for index in batches(len(images), recipe.batch_size, generator, device, rest=rest):
            x, y = images.x[index].float() / 255, images.y[index]
            if hook is not None and not hook.augmented:
                x, y = hook.batch(x, y, model, step / steps)
            x = random_crop_flip(x, recipe.crop, recipe.flip, generator)
            if hook is not None and hook.augmented:
                x, y = hook.batch(x, y, model, step / steps)
            if epoch < recipe.small_epochs:
                x = shrink(x, recipe.small_scale)
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * schedule(step, steps, recipe)
            with autocast(recipe.precision, device):
                x = x.contiguous(memory_format=layout)
                if loss is None:
                    value = F.cross_entropy(model(x), y, label_smoothing=recipe.label_smoothing)
                else:
                    value = loss(model, x, y)
            penalty = hook.penalty() if hook is not None else None
            if penalty is not None:
                value = value + penalty
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if hook is not None:
                hook.stepped()
            total += value.detach()
            step += 1
        mean = float(total) / per_epoch
        if not math.isfinite(mean):
            raise MethodError(f"training diverged in epoch {epoch + 1}: the loss is not finite; try a smaller learning rate")
        if progress is not None:
            progress(epoch + 1, recipe.epochs, mean)
        own = hook.saved() if hook is not None else {}
        if keep is not None and own is not None and epoch + 1 < recipe.epochs:
            keep.save(_snapshot(epoch + 1, model, optimiser, generator, own, device))
    model.eval()


def _snapshot(
    done: int, model: nn.Module, optimiser: torch.optim.SGD, generator: torch.Generator, hook: State, device: torch.device
) -> State:
    """All that decides the rest of a training, as tensors by name."""
    momentum = {
        str(i): optimiser.state[p]["momentum_buffer"]
        for i, p in enumerate(model.parameters())
        if "momentum_buffer" in optimiser.state[p]
    }
    parts = {"model": model.state_dict(), "momentum": momentum, "hook": hook}
    state = {name: value.detach().clone() for group, found in parts.items() for name, value in prefixed(group, found).items()}
    return state | {"done": torch.tensor(done), "generator": generator.get_state(), "global": global_stream(device).get_state()}


def global_stream(device: torch.device) -> torch.Generator:
    """What layers such as dropout draw from."""
    if device.type != "cuda":
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]


def _resume(
    keep: Keeper,
    model: nn.Module,
    optimiser: torch.optim.SGD,
    generator: torch.Generator,
    hook: TrainingHook | None,
    epochs: int,
) -> int:
    """Undo :func:`_snapshot`, if anything was kept; returns the epochs done."""
    try:
        state = keep.load()
        if state is None:
            return 0
        if odd := [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
            raise ValueError(f"{odd[0]} is not finite")
        model.load_state_dict(part("model", state))
        parameters = list(model.parameters())
        for i, value in part("momentum", state).items():
            p = parameters[int(i)]
            optimiser.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(value).detach()
        if hook is not None:
            hook.restore(part("hook", state))
        generator.set_state(state["generator"].cpu())
        global_stream(generator.device).set_state(state["global"].cpu())
        done = int(state["done"])
        if not 0 < done < epochs:
            raise ValueError(f"{done} of {epochs} epochs are done")
        return done
    except (LookupError, RuntimeError, TypeError, ValueError) as error:  # what torch makes of a state of another training
        raise InterruptedStateError(str(error)) from error

"""Input-aware (IAB): a generator makes a trigger for each image; the attacker controls training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import Asset, Attack, AttackContext, BatchShare, Images, Requires, State, TrainingHook, attacks, param
from mnp_plugin.data.augment import random_crop_flip
from mnp_plugin.data.statistics import channel_statistics
from mnp_plugin.io.tensors import part
from mnp_plugin.training.loop import batches
from mnp_plugin.training.source_models import packed, packed_adam, restore_adam, unpacked

TINY = 1e-7
MASK = "input-aware mask net"


@attacks.register("input_aware")
@dataclass(frozen=True, kw_only=True)
class InputAware(Attack):
    """x' = x + (p(x) - x) m(x): pattern p and sparse mask m are made for each image by two U-shaped nets.

    First the mask net alone learns to be sparse and to differ between images; then, frozen, it serves the joint training of
    classifier and pattern net. Of every batch the first ``poison_ratio`` share carries its own trigger and is relabelled;
    the next ones, ``cross_ratio`` times as many, carry the trigger of another image and keep their label.
    Both nets see augmented images, and triggers are put on after augmentation.

    Deviations: patterns live in pixel space, not in normalised space; other images are taken from the same batch; the
    pattern net's gradients are zeroed after every step (the published code never zeroes them); augmentation is the recipe's.
    Images below 32 pixels take the smaller nets published for MNIST.
    """

    version = 2
    paper = "Nguyen, Tran, Input-Aware Dynamic Backdoor Attack, NeurIPS 2020, arXiv 2010.08138"

    width: int | None = param(None, "channels of the first step of both nets; null: 32, below 32 pixels 16", low=1)
    lr: float = param(0.01, "learning rate (Adam) of both nets, falling as published", above=0)
    mask_epochs: int = param(25, "epochs of the mask net alone", low=1)
    density: float = param(0.032, "value of the mask of a pixel up to which there is no penalty", low=0, high=1)
    diversity: float = param(1.0, "weight of the diversity loss", low=0)
    cross_ratio: float = param(1.0, "images with another image's trigger per poisoned image", low=0, high=1)

    def objection(self, shape: tuple[int, int, int], num_classes: int) -> str | None:
        step = 2 ** _steps(shape[1:])
        if any(side % step for side in shape[1:]):
            return f"sides must be divisible by {step}, not {shape[1]}x{shape[2]}; set another size in the data set"
        return None

    def net(self, shape: Sequence[int], outputs: int) -> nn.Module:
        """The pattern net (``outputs`` = channels of the image) or the mask net (1) for images of ``shape`` (C, H, W)."""
        from mnp_plugin.attacks.input_aware_net import UNet

        steps = _steps(shape[1:])
        return UNet(shape[0], outputs, self.width or (32 if steps == 3 else 16), steps)

    def requires(self) -> Requires:
        names = ("width", "lr", "mask_epochs", "density", "diversity")
        settings: Mapping[str, Any] = {"version": 2, **{name: getattr(self, name) for name in names}}
        return Requires(assets=(Asset(name=MASK, settings=settings, make=self._train_mask),))

    def prepare(self, train: Images, tools: AttackContext) -> State:
        pattern = self.net(train.x.shape[1:], train.x.shape[1]).to(tools.device)
        return {**packed("pattern", pattern), **tools.asset(MASK)}

    def _train_mask(self, train: Images, tools: AttackContext) -> State:
        net = self.net(train.x.shape[1:], 1).to(tools.device).train()
        optimiser = torch.optim.Adam(net.parameters(), self.lr, betas=(0.5, 0.9))
        recipe = tools.recipe
        spread = torch.tensor(channel_statistics(train)[1], device=tools.device).view(1, -1, 1, 1)  # of normalised images
        for epoch in range(self.mask_epochs):
            tools.busy("mask net", epoch, self.mask_epochs)
            for group in optimiser.param_groups:
                group["lr"] = self.lr * 0.1 ** sum(epoch >= share * self.mask_epochs for share in (0.4, 0.8))
            for index in batches(len(train), recipe.batch_size, tools.generator, tools.device):
                x = random_crop_flip(train.x[index].float() / 255, recipe.crop, recipe.flip, tools.generator)
                other = x.roll(len(x) // 2, 0)
                m = _mask(net(x))
                apart = _diversity(x / spread, other / spread, m, m.roll(len(x) // 2, 0))
                loss = 100 * F.relu(m - self.density).mean() + self.diversity * apart
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return packed("mask", net)

    def apply(self, x: Tensor, state: State) -> Tensor:
        return self.foreign(x, x, state)

    def foreign(self, x: Tensor, source: Tensor, state: State) -> Tensor:
        """``x`` with the triggers made for the images ``source``; both (N, C, H, W) in [0, 1]."""
        pattern = unpacked("pattern", self.net(x.shape[1:], x.shape[1]), state, x.device)
        mask = unpacked("mask", self.net(x.shape[1:], 1), state, x.device)
        with torch.no_grad():
            drawn: Tensor = pattern(source)
            return x + (drawn - x) * _mask(mask(source))

    def training_hook(self, state: State, num_classes: int, tools: AttackContext) -> TrainingHook:
        return _Joint(self, state, num_classes, tools)


class _Joint(TrainingHook):
    """Stamps own and foreign triggers, and trains the pattern net through the classifier's loss."""

    augmented = True

    def __init__(self, attack: InputAware, state: State, num_classes: int, tools: AttackContext) -> None:
        self.attack, self.state, self.num_classes, self.device = attack, state, num_classes, tools.device
        self.pattern: nn.Module | None = None
        self.extra: Tensor | None = None
        self.share = BatchShare(attack.poison_ratio)
        self.resume: State = {}

    def _start(self, x: Tensor) -> nn.Module:
        pattern = self.attack.net(x.shape[1:], x.shape[1])
        self.pattern = unpacked("pattern", pattern, self.state, self.device).train().requires_grad_(True)
        self.mask = unpacked("mask", self.attack.net(x.shape[1:], 1), self.state, self.device)
        self.optimiser = torch.optim.Adam(self.pattern.parameters(), self.attack.lr, betas=(0.5, 0.9))
        if self.resume:
            self.pattern.load_state_dict(part("pattern", self.resume))
            restore_adam("adam", self.optimiser, self.resume)
        return self.pattern

    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        pattern = self.pattern or self._start(x)
        for group in self.optimiser.param_groups:
            group["lr"] = self.attack.lr * 0.1 ** sum(done >= share for share in (1 / 3, 1 / 2, 2 / 3, 5 / 6))
        count = self.share.take(len(x))
        pairs = min(count, len(x) - count)
        if not count:
            self.extra = None
            return x, y
        own = x[:count]
        other = x.roll(len(x) // 2, 0)[count : count + pairs]
        drawn = pattern(torch.cat([own, other]))
        with torch.no_grad():
            masks = _mask(self.mask(torch.cat([own, other])))
        end = count + int(pairs * self.attack.cross_ratio)
        base = x[:end]
        stamped = base + (drawn[:end] - base) * masks[:end]
        self.extra = self.attack.diversity * _diversity(own[:pairs], other, drawn[:pairs], drawn[count:]) if pairs else None
        labels = torch.cat([self.attack.attack_labels(y[:count], self.num_classes), y[count:]])
        return torch.cat([stamped, x[end:]]), labels

    def penalty(self) -> Tensor | None:
        return self.extra

    def stepped(self) -> None:
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def learned(self) -> State:
        return packed("pattern", self.pattern) if self.pattern is not None else {}

    def saved(self) -> State:
        return {**self.learned(), **packed_adam("adam", self.optimiser), **self.share.saved()}

    def restore(self, state: State) -> None:
        self.resume = state
        self.share.restore(state)


def _steps(sides: Sequence[int]) -> int:
    """Halvings in the nets: 3 as published for CIFAR-10, 2 below 32 pixels, as for MNIST."""
    return 3 if min(sides) >= 32 else 2


def _mask(drawn: Tensor) -> Tensor:
    """Push the values of the mask net in [0, 1] towards 0 and 1."""
    return torch.tanh(20 * drawn - 10) / (2 + TINY) + 0.5


def _rms(x: Tensor) -> Tensor:
    return (x.square().flatten(1).mean(1) + TINY**2).sqrt()


def _diversity(x: Tensor, other: Tensor, made: Tensor, made_other: Tensor) -> Tensor:
    """Large where different images get like triggers."""
    return (_rms(x - other) / (_rms(made - made_other) + TINY)).mean()

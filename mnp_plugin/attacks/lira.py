"""LIRA: a learned, imperceptible residual; the attacker controls training."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import Attack, BatchShare, DefenseContext, Images, State, TrainingHook, attacks, param
from mnp_plugin.io.tensors import part
from mnp_plugin.training.source_models import packed, packed_adam, restore_adam, unpacked


@attacks.register("lira")
@dataclass(frozen=True, kw_only=True)
class Lira(Attack):
    """x' = clip(x + eps A(x)), with an autoencoder A that ends in tanh.

    During the first ``generator_share`` of the training, a second copy A' learns on every batch to send all of its images to
    the target, with the classifier fixed; A takes over A' after every epoch. The classifier sees each batch clean and, its first
    ``poison_ratio`` share, once more with A's trigger: at 1, as published, both halves weigh the same (alpha 0.5).

    The published eps is 0.01 in normalised units, 0.0025 here: below half a grey level, so that rounding to 8 bit erases
    most of the trigger. The record therefore gives the ASR after rounding beside the float one.

    Deviations: clean and triggered images share one forward pass; A' looks at the classifier in eval mode, and leaves no
    gradient in it (BackdoorBench's does); one training run instead of two stages with a restart of the learning rate; A's last
    layer is batch-normalised before tanh, the authors' is not; augmentation follows the trigger and differs between an image
    and its triggered copy, where the authors augment first, once for both, and A' learns on augmented images.
    """

    paper = "Doan, Lao, Zhao, Li, LIRA: Learnable, Imperceptible and Robust Backdoor Attacks, ICCV 2021"

    poison_ratio: float = param(1.0, "share of each batch that is seen once more, triggered", above=0, high=1)
    eps: float = param(0.0025, "largest change of a pixel, in [0, 1] units", above=0, high=1)
    lr: float = param(1e-4, "learning rate (Adam) of the autoencoder", above=0)
    generator_share: float = param(0.5, "share of the training during which the autoencoder learns", above=0, high=1)

    def objection(self, shape: tuple[int, int, int], num_classes: int) -> str | None:
        step = 2 ** _depth(shape[1:])
        if any(side % step for side in shape[1:]):
            return f"sides must be divisible by {step}, not {shape[1]}x{shape[2]}; set another size in the data set"
        return None

    def apply(self, x: Tensor, state: State) -> Tensor:
        net = unpacked("generator", _autoencoder(x), state, x.device)
        with torch.no_grad():
            return self.triggered_by(net, x)

    def triggered_by(self, net: nn.Module, x: Tensor) -> Tensor:
        """``x`` with the trigger of autoencoder ``net``; gradients flow to it."""
        residual: Tensor = net(x)
        return (x + self.eps * residual).clamp(0, 1)

    def prepare(self, train: Images, tools: DefenseContext) -> State:
        return packed("generator", _autoencoder(train.x).to(tools.device))

    def training_hook(self, state: State, num_classes: int, tools: DefenseContext) -> TrainingHook:
        return _Learning(self, state, num_classes, tools)


class _Learning(TrainingHook):
    """Trains A' against the classifier, and shows the classifier A's trigger."""

    def __init__(self, attack: Lira, state: State, num_classes: int, tools: DefenseContext) -> None:
        self.attack, self.state, self.num_classes, self.epochs = attack, state, num_classes, tools.recipe.epochs
        self.device, self.epoch, self.share = tools.device, 0, BatchShare(attack.poison_ratio)
        self.used: nn.Module | None = None
        self.resume: State = {}

    def _start(self, x: Tensor) -> nn.Module:
        self.used = unpacked("generator", _autoencoder(x), self.state, self.device)
        self.learning = copy.deepcopy(self.used).requires_grad_(True).train()
        self.optimiser = torch.optim.Adam(self.learning.parameters(), self.attack.lr)
        if self.resume:
            self.used.load_state_dict(part("generator", self.resume))
            self.learning.load_state_dict(part("learning", self.resume))
            restore_adam("adam", self.optimiser, self.resume)
        return self.used

    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        used = self.used or self._start(x)
        epoch = int(done * self.epochs + 1e-6)  # a quotient like 29/100 times 100 falls short of 29
        if epoch > self.epoch:
            self.epoch = epoch
            used.load_state_dict(self.learning.state_dict())
        if done < self.attack.generator_share:
            self._learn(x, y, model)
        count = self.share.take(len(x))
        with torch.no_grad():
            bad = self.attack.triggered_by(used, x[:count])
        return torch.cat([x, bad]), torch.cat([y, self.attack.attack_labels(y[:count], self.num_classes)])

    def _learn(self, x: Tensor, y: Tensor, model: nn.Module) -> None:
        model.eval()
        loss = F.cross_entropy(model(self.attack.triggered_by(self.learning, x)), self.attack.attack_labels(y, self.num_classes))
        own = list(self.learning.parameters())
        for weight, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
            weight.grad = gradient
        self.optimiser.step()
        model.train()

    def learned(self) -> State:
        return packed("generator", self.used) if self.used is not None else {}

    def saved(self) -> State:
        nets = {**self.learned(), **packed("learning", self.learning), **packed_adam("adam", self.optimiser)}
        return {**nets, **self.share.saved(), "epoch": torch.tensor(self.epoch)}

    def restore(self, state: State) -> None:
        self.resume, self.epoch = state, int(state["epoch"])
        self.share.restore(state)


def _depth(sides: tuple[int, int]) -> int:
    """Halvings in the autoencoder: 4 as published, 2 below 32 pixels."""
    return 4 if min(sides) >= 32 else 2


def _autoencoder(x: Tensor) -> nn.Module:
    """For images like ``x``: strided convolutions of 16, 32, ... channels down, transposed ones up; output in [-1, 1]."""
    channels, depth = x.shape[1], _depth((x.shape[2], x.shape[3]))
    widths = [channels] + [16 * 2**i for i in range(depth)]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Conv2d(a, b, 4, 2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
    for a, b in zip(widths[:1:-1], widths[-2:0:-1], strict=True):
        layers += [nn.ConvTranspose2d(a, b, 4, 2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
    layers += [nn.ConvTranspose2d(widths[1], channels, 4, 2, padding=1), nn.BatchNorm2d(channels), nn.Tanh()]
    return nn.Sequential(*layers)

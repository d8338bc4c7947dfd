"""BTI-DBF's trigger inversion: a generator that moves what the benign features leave over.

Xu et al., Towards Reliable and Efficient Backdoor Trigger Inversion via Decoupling Benign Features, ICLR 2024; constants of the
released code (xuxiong0214/BTIDBF e680dda). Deviations: features are what enters the head (there: the map before pooling),
so that any net has them; the net stays in eval mode while its features are decoupled (there its copy is in train mode and its
statistics drift); the U-Net grows by interpolation, there by transposed convolutions. Weights and bounds are those of the map,
whose mean squares are larger than the pooled ones. The generator takes and gives images in [0, 1], there normalised ones, so
distances are divided by the variance of the normalisation published for CIFAR-10, whatever the data: on contrasty ones (digits
have 0.1) pixels may move by less than in the published code, which normalises each data set by its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenseContext, Images
from mnp_plugin.training.passes import descend, finite, forward, one_pass
from mnp_plugin.training.source_models import features, head_of

VARIANCE = 0.04
"""Of the published normalisation (standard deviations of 0.2)."""


@dataclass(frozen=True, kw_only=True)
class Decoupling:
    """How a generator is made: a U-Net of ``width`` channels, ``pretrain`` passes towards the identity, then in each round
    ``mask`` passes that decouple the benign features and ``passes`` of the generator itself.
    """

    width: int
    pretrain: int
    mask: int
    passes: int
    lr: float = 1e-3
    mask_lr: float = 0.01
    norm_bound: float = 0.3
    feature_bound: float = 3.0
    batch_size: int = 128


class Inverter:
    """The generator of one defense run, and what it shows.

    Args:
        images: clean images to learn from.
        how: settings.
        tools: device, random stream, recipe.
    """

    def __init__(self, images: Images, how: Decoupling, tools: DefenseContext) -> None:
        from mnp_plugin.nets.unet import UNet

        self.images, self.how, self.tools = images, how, tools
        channels, height, width = images.x.shape[1:]
        self.net = UNet(channels, how.width, min(height, width)).to(tools.device)
        self.optimiser = self._fresh()
        self.target: int | None = None

    def _fresh(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.net.parameters(), self.how.lr)

    def pretrain(self, model: nn.Module) -> None:
        """Teach the generator to give images back as ``model`` sees them."""
        with _frozen(model):
            for epoch in range(self.how.pretrain):
                for x, _ in self._pass(model):
                    made = self.net(x)
                    with torch.no_grad():
                        own = features(model, x)
                    theirs = features(model, made)
                    head = head_of(model)
                    same = F.cross_entropy(head(own).softmax(1), head(theirs).softmax(1))  # softmax twice, as released
                    far = F.mse_loss(made, x) / VARIANCE
                    descend(same + F.mse_loss(theirs, own) + (100 if float(far.detach()) > 0.1 else 0.01) * far, self.optimiser)
                self.tools.busy("generator as identity", epoch + 1, self.how.pretrain)
        self.optimiser = self._fresh()

    def invert(self, model: nn.Module) -> None:
        """One round: decouple the benign features of ``model``, then move the others; learns the target in the first round."""
        with _frozen(model):
            mask = self._benign(model)
            for epoch in range(self.how.passes):
                value = torch.zeros(())
                for x, _ in self._pass(model):
                    value = self._loss(model, mask, x)
                    descend(value, self.optimiser)
                finite(value, "the trigger generator")
                self.tools.busy("trigger generator", epoch + 1, self.how.passes)
            if self.target is None:
                self.target = self._most_predicted(model)

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` with the trigger found, without gradients."""
        if not len(x):
            return x
        with torch.no_grad():
            made: Tensor = self.net(x)
        return made

    def mixed(self, x: Tensor, share: float) -> Tensor:
        """A shuffled batch ``x`` with the trigger on a ``share`` of it, and on one image more, unless that is 0."""
        count = min(int(share * len(x)) + 1, len(x)) if share else 0
        return torch.cat([self(x[:count]), x[count:]])

    def _pass(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        return list(one_pass(model, self.images, self.how.batch_size, self.tools))

    def _benign(self, model: nn.Module) -> Tensor:
        """Which features carry the clean task, in [0, 1], [D]: they alone suffice, and without them nothing is known."""
        head = head_of(model)
        drawn = torch.randn(head.in_features, generator=self.tools.generator, device=self.tools.device).requires_grad_(True)
        optimiser = torch.optim.Adam([drawn], self.how.mask_lr)
        for _ in range(self.how.mask):
            for x, y in self._pass(model):
                with torch.no_grad():
                    own = features(model, x)
                mask = drawn.tanh() / 2 + 0.5
                descend(F.cross_entropy(head(mask * own), y) - F.cross_entropy(head((1 - mask) * own), y), optimiser)
        return (drawn.tanh() / 2 + 0.5).detach()

    def _loss(self, model: nn.Module, mask: Tensor, x: Tensor) -> Tensor:
        made = self.net(x)
        with torch.no_grad():
            own = features(model, x)
        theirs = features(model, made)
        benign, other = F.mse_loss(mask * theirs, mask * own), F.mse_loss((1 - mask) * theirs, (1 - mask) * own)
        far = F.mse_loss(made, x) / VARIANCE
        outside = float(far.detach()) > self.how.norm_bound or float(benign.detach()) > self.how.feature_bound
        loss = far if outside else 0.01 * benign - other
        if self.target is not None:
            wanted = torch.full((len(x),), self.target, device=x.device)
            loss = loss + F.cross_entropy(head_of(model)(theirs), wanted)
        return loss

    def _most_predicted(self, model: nn.Module) -> int:
        counts = torch.zeros(head_of(model).out_features)
        for x, _ in self._pass(model):
            noise = torch.randn(x.shape, generator=self.tools.generator, device=x.device)
            with torch.no_grad():
                found = forward(model, self(x + 0.03 * VARIANCE**0.5 * noise), self.tools).argmax(1)
            counts += found.bincount(minlength=len(counts)).cpu()
        return int(counts.argmax())


class _frozen:  # noqa: N801 - a context manager, used as a function
    """Inside, ``model`` is in eval mode and its parameters ask for no gradients."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.training = model, model.training

    def __enter__(self) -> None:
        self.model.requires_grad_(False).eval()

    def __exit__(self, *_: object) -> None:
        self.model.requires_grad_(True).train(self.training)

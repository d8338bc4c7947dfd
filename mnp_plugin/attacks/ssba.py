"""SSBA: a steganographic encoder hides one string in every poisoned image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnp_plugin.contracts import Asset, Attack, AttackContext, Images, MethodError, Requires, State, attacks, param
from mnp_plugin.training.source_models import packed, unpacked

ENCODER = "steganographic encoder"


@attacks.register("ssba")
@dataclass(frozen=True, kw_only=True)
class Ssba(Attack):
    """x' = clip(x + r(x, s)): the residual r of a StegaStamp encoder that hides the same random bits s in every image.

    Encoder and decoder learn on the training images, with random bits: cross entropy of the bits, plus ``image_weight``
    times the squared change of the image, which comes in only once 90 % of the bits are read, and slowly. An encoder that
    ends before it came in fully would hide nothing and is refused (MethodError); ``image_weight`` 0 asks for one.

    Deviations: the residual form of the authors' encoder (BackdoorBench's makes the whole image anew); no LPIPS, no
    discriminator, no spatial transformer (BackdoorBench has none of them either); plain random bits instead of a BCH code;
    bits and images are centred, and the net grows by 3x3 convolutions where BackdoorBench has 2x2.
    """

    paper = "Li et al., Invisible Backdoor Attack with Sample-Specific Triggers, ICCV 2021, arXiv 2012.03816"

    bits: int = param(100, "length of the hidden string", low=1, high=1024)
    steps: int = param(16000, "training steps of encoder and decoder", low=1)
    batch_size: int = param(64, "images per step", low=2)
    lr: float = param(1e-4, "learning rate (Adam)", above=0)
    image_weight: float = param(10.0, "weight of the squared change of the image, at its full size", low=0)

    def objection(self, shape: tuple[int, int, int], num_classes: int) -> str | None:
        if any(side % 16 for side in shape[1:]):
            return f"sides must be divisible by 16, not {shape[1]}x{shape[2]}; set another size in the data set"
        return None

    def requires(self) -> Requires:
        names = ("bits", "steps", "batch_size", "lr", "image_weight")
        settings: Mapping[str, Any] = {"version": 1, **{name: getattr(self, name) for name in names}}
        return Requires(assets=(Asset(name=ENCODER, settings=settings, make=self._train),))

    def prepare(self, train: Images, tools: AttackContext) -> State:
        secret = torch.randint(0, 2, (1, self.bits), generator=tools.generator, device=tools.device).float()
        return {**tools.asset(ENCODER), "secret": secret}

    def _train(self, train: Images, tools: AttackContext) -> State:
        from mnp_plugin.attacks.ssba_nets import Encoder, make_decoder

        channels = train.x.shape[1]
        encoder = Encoder(channels, self.bits).to(tools.device).train()
        decoder = make_decoder(channels, self.bits, (train.x.shape[2], train.x.shape[3])).to(tools.device).train()
        optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], self.lr)
        read_at: int | None = None
        size = min(self.batch_size, len(train))
        for step in range(self.steps):
            if step % 50 == 0:
                tools.busy(ENCODER, step, self.steps)
            index = torch.randint(len(train), (size,), generator=tools.generator, device=tools.device)
            x = train.x[index].float() / 255
            secret = torch.randint(0, 2, (size, self.bits), generator=tools.generator, device=tools.device).float()
            coded = encoder(x, secret)
            found = decoder(coded)
            if read_at is None and float(((found > 0) == (secret > 0.5)).float().mean()) > 0.9:
                read_at = step
            # As published: nothing for the first 1/16 of the steps after the bits were read, full size 3/16 later.
            since = 0.0 if read_at is None else (step - read_at) / self.steps * 16 - 1
            share = min(max(since / 3, 0.0), 1.0)
            loss = F.binary_cross_entropy_with_logits(found, secret) + share * self.image_weight * F.mse_loss(coded, x)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if self.image_weight and share < 1:
            read = "never read" if read_at is None else f"read only from step {read_at} on"
            raise MethodError(
                f"ssba: of {self.steps} steps, 90 % of the bits were {read}, too late for the image to be spared, so that the "
                f"trigger would show; lower lr ({self.lr:g}), raise steps or take fewer bits ({self.bits})"
            )
        return packed("encoder", encoder)

    def apply(self, x: Tensor, state: State) -> Tensor:
        from mnp_plugin.attacks.ssba_nets import Encoder

        encoder = unpacked("encoder", Encoder(x.shape[1], self.bits), state, x.device)
        with torch.no_grad():
            coded: Tensor = encoder(x, state["secret"].to(x).expand(len(x), -1))
        return coded.clamp(0, 1)

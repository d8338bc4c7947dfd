"""BNP: prune channels whose statistics on clean images differ from the running ones."""

from __future__ import annotations

import copy
import math
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Images, Purified, defenses, param
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.neurons import channels as channel
from mnp_plugin.neurons.channels import Neurons, prune
from mnp_plugin.neurons.thresholds import above


@defenses.register("bnp")
@dataclass(frozen=True, kw_only=True)
class BNP(Defense):
    """KL divergence of the normal law of a channel's input on clean images (mu1, v1) from the running statistics (mu2, v2):
    log(sqrt(v2 / v1)) + (v1 + (mu1 - mu2)^2) / (2 v2) - 1/2. A channel goes (scale to 0, bias kept) where it exceeds
    mean + u * std of its layer. One batch of clean images, eval mode.

    u is fixed as published; the values 0, 0.5, ..., 10 are the candidates of the separate oracle row. Useless against an
    attacker who re-estimates running statistics on clean images.

    Facts from RJ-T/NIPS2022_EP_BNP af5150d. Deviations: images are not augmented, there they are cropped and mirrored; v1
    divides by the number of values, there by one less; a variance of 0 counts as the net's own eps. BackdoorBench f02e353
    leaves out the 1/2 before the logarithm's ratio of variances, overwrites the statistics of the clean batch by those of a
    poisoned one, zeroes the bias, too, and measures the net of one u for all values of u that it lists; none of this is here.
    """

    paper = "Zheng et al., Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022, OpenReview wwW-1k1ljIg"
    version = 2
    chooses = False

    u: float = param(3.0, "standard deviations above the layer's mean", low=0)
    images: int = param(500, "clean images at most", low=2)

    def objection(self, model: nn.Module) -> str | None:
        return channel.batch_norm_objection(model)

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        neurons = Neurons(view.model, view.clean[:1].pixels())
        drawn = torch.randperm(len(view.clean), generator=tools.generator, device=tools.device)[: self.images]
        excess = self.excess(view.model, neurons, view.clean[drawn])
        chosen = (excess > self.u).nonzero().flatten()
        model = copy.deepcopy(view.model)
        prune(model, neurons, chosen, bias=False)
        report = {
            "u": self.u,
            "pruned": len(chosen),
            "of": neurons.count,
            "layers": neurons.summary(chosen.tolist()),
        }
        return Purified(model=model, report=report, candidates=lambda: above(view.model, neurons, excess, bias=False))

    def excess(self, model: nn.Module, neurons: Neurons, images: Images) -> Tensor:
        """Standard deviations by which each channel's divergence exceeds its layer's mean, [neurons]."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        with ExitStack() as stack:
            for layer in neurons.layers:

                def note(_m: nn.Module, args: tuple[Tensor, ...], name: str = layer.name) -> None:
                    x = args[0].float()
                    found[name] = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)

                stack.callback(model.get_submodule(layer.name).register_forward_pre_hook(note).remove)
            logits(model, images.x, batch=len(images))
        parts = []
        for layer in neurons.layers:
            bn = model.get_submodule(layer.name)
            assert channel.is_batch_norm(bn)
            assert bn.running_mean is not None
            assert bn.running_var is not None
            if layer.name not in found:  # the net does not use it
                parts.append(torch.full_like(bn.running_mean, -math.inf))
                continue
            mean, variance = found[layer.name][0], found[layer.name][1].clamp(min=bn.eps)
            running = bn.running_var.clamp(min=bn.eps)
            ratio = (variance + (mean - bn.running_mean).square()) / (2 * running)
            divergence = (running / variance).log() / 2 + ratio - 0.5
            spread = divergence.std() if len(divergence) > 1 else divergence.new_zeros(())
            parts.append((divergence - divergence.mean()) / spread.clamp(min=1e-12))
        return torch.cat(parts)

"""EP: prune channels whose activations on the poisoned training set have little entropy."""

from __future__ import annotations

import copy
import math
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnp_plugin.contracts import DefenseContext, Images, Purified, TrainingSetDefense, TrainingView, defenses, param
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.neurons import channels as channel
from mnp_plugin.neurons.channels import Neurons, prune
from mnp_plugin.neurons.thresholds import above


@defenses.register("ep")
@dataclass(frozen=True, kw_only=True)
class EP(TrainingSetDefense):
    """For each channel the largest pre-activation of each image, standardised over the images; their entropy in bins of ``bin``.
    Poisoned images split a backdoor channel's values in two, which lowers it: a channel goes (scale to 0, bias kept) where its
    entropy is below mean - u * std of its layer. Images: ``images`` drawn from the poisoned training set, eval mode.

    u is fixed as published; the values 0, 0.5, ..., 10 are the candidates of the separate oracle row. Facts from
    RJ-T/NIPS2022_EP_BNP af5150d (BackdoorBench has bins of 0.1 and zeroes the bias, too). Deviations: bins reach to both ends
    of a layer's values, where the released code leaves out values on borders and in the last, narrower bin; images are not
    augmented, there they are cropped and mirrored.
    """

    paper = "Zheng et al., Pre-activation Distributions Expose Backdoor Neurons, NeurIPS 2022, OpenReview wwW-1k1ljIg"

    u: float = param(3.0, "standard deviations below the layer's mean", low=0)
    bin: float = param(0.01, "width of the bins, in standard deviations of the channel", above=0)
    images: int = param(500, "images drawn from the training set", low=2)

    def objection(self, model: nn.Module) -> str | None:
        return channel.batch_norm_objection(model)

    def treat(self, view: TrainingView, tools: DefenseContext) -> Purified:
        neurons = Neurons(view.model, view.train[:1].pixels())
        drawn = torch.randperm(len(view.train), generator=tools.generator, device=tools.device)[: self.images]
        lack = self.lack(view.model, neurons, view.train[drawn])
        chosen = (lack > self.u).nonzero().flatten()
        model = copy.deepcopy(view.model)
        prune(model, neurons, chosen, bias=False)
        report = {"u": self.u, "pruned": len(chosen), "of": neurons.count, "layers": neurons.summary(chosen.tolist())}
        return Purified(model=model, report=report, candidates=lambda: above(view.model, neurons, lack, bias=False))

    def lack(self, model: nn.Module, neurons: Neurons, images: Images) -> Tensor:
        """Standard deviations by which each channel's entropy falls below its layer's mean, [neurons]."""
        found: dict[str, list[Tensor]] = {layer.name: [] for layer in neurons.layers}
        with ExitStack() as stack:
            for layer in neurons.layers:

                def note(_m: nn.Module, args: tuple[Tensor, ...], name: str = layer.name) -> None:
                    found[name].append(args[0].float().amax(dim=(2, 3)))

                stack.callback(model.get_submodule(layer.name).register_forward_pre_hook(note).remove)
            logits(model, images.x)
        parts = []
        for layer in neurons.layers:
            if not found[layer.name]:  # the net does not use it
                parts.append(torch.full((layer.stop - layer.start,), -math.inf, device=neurons.device))
                continue
            values = self.entropy(torch.cat(found[layer.name]).T)
            spread = values.std() if len(values) > 1 else values.new_zeros(())
            parts.append((values.mean() - values) / spread.clamp(min=1e-12))
        return torch.cat(parts)

    def entropy(self, values: Tensor) -> Tensor:
        """Entropy in nats of each row of ``values`` [channels, images], standardised and binned; 0 where a row is constant."""
        values = (values - values.mean(1, keepdim=True)) / values.std(1, keepdim=True).clamp(min=1e-12)
        index = ((values - values.min()) / self.bin).long()
        counts = torch.zeros(len(values), int(index.max()) + 1, device=values.device)
        counts.scatter_add_(1, index, torch.ones_like(values))
        share = counts / values.shape[1]
        return -torch.where(share > 0, share * share.clamp(min=1e-12).log(), 0.0).sum(1)

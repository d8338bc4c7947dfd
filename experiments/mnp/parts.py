"""The steps of the method as free functions with every setting open; what won stands in mnp_plugin/defenses/mnp.py."""

from __future__ import annotations

import copy
import math
from collections import deque

import torch
import torch.nn.functional as F
from lab import Bench
from torch import Tensor, nn

from mnp_plugin.contracts import Images, concat
from mnp_plugin.data.augment import random_crop_flip
from mnp_plugin.neurons.channels import Neurons, prune

BF = True


def cast():
    return torch.autocast("cpu", torch.bfloat16, enabled=BF)


def draw(
    images: Images, n: int, gen: torch.Generator, crop: int = 4, flip: bool = True, augment: bool = True
) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(images), generator=gen)[:n]
    part = images[order]
    x = part.pixels()
    if augment:
        x = random_crop_flip(x, crop, flip, gen)
    return x.contiguous(memory_format=torch.channels_last), part.y


def blend(x: Tensor, gen: torch.Generator) -> Tensor:
    """MixUp or CutMix with a random partner, half of the time each."""
    n, _, h, w = x.shape
    other = x[torch.randperm(n, generator=gen)]
    lam = float(torch.rand(1, generator=gen))
    if float(torch.rand(1, generator=gen)) < 0.5:
        return lam * x + (1 - lam) * other
    side = math.sqrt(1 - lam)
    ch, cw = max(1, round(side * h)), max(1, round(side * w))
    top = int(torch.randint(0, h - ch + 1, (1,), generator=gen))
    left = int(torch.randint(0, w - cw + 1, (1,), generator=gen))
    x = x.clone()
    x[:, :, top : top + ch, left : left + cw] = other[:, :, top : top + ch, left : left + cw]
    return x


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) of logits, batch mean."""
    return F.kl_div(F.log_softmax(student.float(), 1), F.log_softmax(teacher.float(), 1), log_target=True, reduction="batchmean")


def suppress(model: nn.Module, clean: Images, gen, *, lr=0.01, mu=5e-4, epochs=20, floor=0.2, batch=128) -> nn.Module:
    exposed = copy.deepcopy(model).requires_grad_(True).train()
    opt = torch.optim.SGD(exposed.parameters(), lr, momentum=0.9, weight_decay=2 * mu)
    per = max(1, len(clean) // batch)
    recent: deque[float] = deque(maxlen=per)
    for _ in range(epochs * per):
        x, y = draw(clean, batch, gen)
        with cast():
            out = exposed(x).float()
        opt.zero_grad(set_to_none=True)
        (-F.cross_entropy(out, y)).backward()
        nn.utils.clip_grad_norm_(exposed.parameters(), 20.0)
        opt.step()
        recent.append(float((out.argmax(1) == y).float().mean()))
        if sum(recent) <= floor * len(recent):
            break
    return exposed.requires_grad_(False)


def recover(exposed: nn.Module, neurons: Neurons, clean: Images, gen, *, lr=0.2, epochs=20, batch=128) -> Tensor:
    m = torch.ones(neurons.count, requires_grad=True)
    opt = torch.optim.SGD([m], lr, momentum=0.9)
    exposed.train()
    for _ in range(epochs * max(1, len(clean) // batch)):
        x, y = draw(clean, batch, gen, augment=False)
        with cast():
            out = neurons.forward(exposed, x, m).float()
        opt.zero_grad(set_to_none=True)
        (0.2 * F.cross_entropy(out, y)).backward()
        opt.step()
        m.data.clamp_(0, 1)
    return m.detach()


def deviation(model, neurons: Neurons, clean: Images) -> Tensor:
    a = neurons.magnitude(model).clamp(min=1e-12).log()
    s = neurons.saliency(model, clean).clamp(min=1e-12).log()
    return neurons.standardise(a) - neurons.standardise(s)


def masks(
    model, neurons: Neurons, omega: Tensor, clean: Images, gen, *, lam=0.012, steps=60, lr=0.2, batch=128, bias=True
) -> Tensor:
    """Masks of scale and, with ``bias``, shift."""
    model.eval()
    m = torch.ones(neurons.count, requires_grad=True)
    opt = torch.optim.SGD([m], lr, momentum=0.9)
    for _ in range(steps):
        x, _y = draw(clean, batch, gen)
        with cast():
            with torch.no_grad():
                t = model(x)
            s = neurons.forward(model, x, m, m if bias else None)
        loss = kl(t, s) + lam * (omega * m).sum()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        m.data.clamp_(0, 1)
    return m.detach()


@torch.no_grad()
def predictions(model, x: Tensor) -> Tensor:
    with cast():
        return torch.cat([model(p).float() for p in x.split(250)])


def views(images: Images, gen, least: int = 500) -> Tensor:
    """The images, and crops and flips of them until there are ``least``."""
    parts = [images.pixels()]
    while sum(map(len, parts)) < least:
        parts.append(random_crop_flip(images.pixels(), 4, True, gen))
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def pruned_copy(model, neurons, order, k, *, bias=True):
    p = copy.deepcopy(model)
    prune(p, neurons, order[:k], bias=bias)
    return p.eval()


def depth(model, neurons: Neurons, order: Tensor, x: Tensor, least: float, said: Tensor | None = None) -> tuple[int, list]:
    """Most channels whose removal leaves the predictions ``said``, by default the model's, on a share ``least`` of ``x``."""
    said = predictions(model, x).argmax(1) if said is None else said
    k, best, path = 3, 0, []
    bad = 0
    while k < neurons.count and bad < 3:
        share = float((predictions(pruned_copy(model, neurons, order, k), x).argmax(1) == said).float().mean())
        path.append((k, round(share, 3)))
        if share >= least:
            best, bad = k, 0
        else:
            bad += 1
        k = max(k + 1, round(k * 1.15))
    return best, path


def restore(
    victim,
    pruned,
    neurons: Neurons,
    gone: Tensor,
    clean: Images,
    gen,
    *,
    steps=60,
    lr=0.01,
    wd=5e-4,
    batch=128,
    extra=None,
    clip=2.0,
    crop=4,
):
    """Distil the victim into the pruned net's other weights; BN statistics frozen, pruned channels held at 0."""
    net = copy.deepcopy(pruned).requires_grad_(True).eval()
    opt = torch.optim.SGD(net.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=wd)
    for i in range(steps):
        for g in opt.param_groups:
            g["lr"] = lr * 0.5 * (1 + math.cos(math.pi * i / steps))
        x, _y = draw(clean, batch, gen, crop=crop)
        x = blend(x, gen).contiguous(memory_format=torch.channels_last)
        with cast():
            with torch.no_grad():
                t = victim(x)
            s = net(x)
            loss = kl(t, s)
            if extra is not None:
                loss = loss + extra(net, x, t, i)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), clip)
        opt.step()
        prune(net, neurons, gone, bias=True)
    return net.requires_grad_(False)


def exposed(model, neurons: Neurons, clean: Images, gen) -> Tensor:
    """omega of every neuron, by the default settings of MNP."""
    recovered = recover(suppress(model, clean, gen), neurons, clean, gen)
    return deviation(model, neurons, clean).clamp(0, 5).square() / 15 + (1 - recovered)


def ordered(kept: Tensor, omega: Tensor) -> Tensor:
    """The order of pruning."""
    return (kept - 1e-3 * omega / omega.max()).argsort()


def start(b: Bench, number: int):
    """(view, neurons, budget, random stream) of a draw."""
    view, context = b.draw(number)
    return view, Neurons(view.model, view.clean[:1].pixels()), concat([view.clean, view.validation]), context.generator


def stage(b: Bench, number: int):
    """(view, neurons, budget, order of pruning, random stream) of a draw, by the default settings of MNP."""
    view, neurons, budget, gen = start(b, number)
    omega = exposed(view.model, neurons, budget, gen)
    kept = masks(view.model, neurons, omega, budget, gen)
    return view, neurons, budget, ordered(kept, omega), gen

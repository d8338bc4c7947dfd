"""MNP: magnitude-based neuron pruning."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import median
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, Defense, DefenseContext, Images, Purified, concat, defenses, param
from mnp_plugin.data.augment import mix, random_crop_flip
from mnp_plugin.evaluation.predict import logits
from mnp_plugin.neurons import channels as channel
from mnp_plugin.neurons.agreement import agreement, predictions
from mnp_plugin.neurons.channels import Neurons, prune
from mnp_plugin.neurons.probe import Probe, divergence, find_probe
from mnp_plugin.neurons.reach import nudged
from mnp_plugin.neurons.thresholds import Candidates
from mnp_plugin.training.device import autocast, in_layout_of
from mnp_plugin.training.passes import cosine, descend, forward


@dataclass(frozen=True, eq=False)
class Case:
    """What one repair works with.

    Args:
        victim: in eval mode, its parameters without gradients.
        neurons: of the victim.
        budget: all clean images.
        tools: random stream, device, recipe, progress.
        steady: the step, in standard deviations of the clean pixels, under which the victim keeps its answers; 0: none is known.
    """

    victim: nn.Module
    neurons: Neurons
    budget: Images
    tools: DefenseContext
    steady: float = 0.0

    @classmethod
    def of(cls, view: DefenderView, tools: DefenseContext) -> Case:
        """The case of what a defender is given."""
        victim = view.model.requires_grad_(False).eval()
        return cls(victim, Neurons(victim, view.clean[:1].pixels()), concat([view.clean, view.validation]), tools)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the clean pixels, by which the sizes of perturbations and steps are measured."""
        return float(self.budget.pixels().std())

    def draw(self, size: int, *, augment: bool = True) -> tuple[Tensor, Tensor]:
        """A random batch of the clean images: (x in [0, 1], y)."""
        recipe, generator = self.tools.recipe, self.tools.generator
        order = torch.randperm(len(self.budget), generator=generator, device=self.tools.device)
        part = self.budget[order[:size]]
        x = part.pixels()
        return random_crop_flip(x, recipe.crop, recipe.flip, generator) if augment else x, part.y

    def nobody(self) -> Tensor:
        """No neuron: int64 [0]."""
        return torch.zeros(0, dtype=torch.int64, device=self.tools.device)

    def agreement(self, net: nn.Module) -> float:
        """Share of the clean images that ``net`` and the victim put into the same class."""
        return round(agreement(self.victim, net, self.budget.pixels(), self.tools), 4)


@defenses.register("mnp")
@dataclass(frozen=True, kw_only=True)
class MNP(Defense):
    """Three magnitude-guided objectives expose, eliminate and protect; then the victim is distilled back into what is left.

    The three objectives are the paper's (its abstract names them). Their exact form, the depth of pruning and the restoring
    are ours: the paper's text was not at hand. A neuron is a channel (see :class:`Neurons`).

    1. *Clean suppression* exposes: gradient ascent on the clean loss, with weight decay ``mu``, gives weights that have
       forgotten the clean task. Masks m_R that bring it back from there stay low where a channel serves the backdoor.
    2. *Weight penalty* eliminates: each mask pays ``strength`` * omega, omega = clip(D, 0, 5)^2 / 15 + (1 - m_R), where
       D = rz(log magnitude) - rz(log saliency), by layer, is the deviation from the magnitude-saliency correlation: positive
       for a neuron that is large although the clean loss hardly needs it.
    3. *Clean preserving* protects: the same masks keep the victim's own outputs on augmented clean images, by KL divergence.
       Distilling instead of fitting labels matters: with labels, masks are paid for correcting the victim's mistakes on the
       few images, and overfit them.

    Neurons are pruned in the order of their masks, and as many as leave the victim's prediction on a share ``agreement`` of
    the clean images and of crops of them; this needs no labels. That is deeper than any accuracy rule would allow, since too
    little pruning only gates a backdoor. *Restoring* then gives the accuracy back: the weights that are left are trained to
    give the victim's outputs on MixUp and CutMix of the clean images, batch-normalisation statistics frozen, pruned neurons
    held at zero. All of this happens in ``rounds``: the restored net is scored anew, and backdoor neurons that hid behind
    others the first time stand out, so that two moderate rounds remove more, and cost less, than one deep one. At the end
    the filters of pruned neurons that nothing else reads are emptied, so that nothing can revive them.

    Distilling from the victim can bring its backdoor back (LF: from 5 to 44 %). So the pruned net is compared with the victim
    first: perturbations on which they disagree most are sought, and where all of them but one send nearly every image to one
    class, and none to another, a backdoor is *suspected*. Then restoring is *wary*: of that class the victim's probability is
    believed only as far as the pruned net's goes; only the later half of the layers is trained; and the net also learns to
    answer images under smooth random shading as it answers the images themselves (LF: 7 %). A net without such a class pays
    nothing for it.

    Where no single perturbation finds it, a single step may: images are moved by half of the perturbations' reach towards each
    class, each by its own gradient, and a class that half of them reach in the victim, at least twice as many as any
    other, is suspected, too (LIRA; Adaptive-Blend and LF on digits). If, after restoring, such a step of full reach still
    moves more images to the suspected class than to others, restoring is done again and *hardens*: the net learns to answer
    images moved in this way, too, as it answers the images themselves. The steps it is hardened against are an eighth of a
    standard deviation of the pixels at first, and grow until they are enough (LIRA: from 97 to 1 %; Blended on digits: from 57
    to 1 %). A step that costs the net more than ``cost`` of the victim's predictions is undone: a wrong suspicion would cost
    ten points of accuracy.

    Where the victim itself keeps most answers under steps of an eighth of a standard deviation to any class (on digits, not on
    CIFAR-10), the last restoring keeps them, too, whatever is suspected: fewer backdoors come back with it (WaNet on digits: 5
    instead of 23 %). A net that is not so steady would lose ten points, and is spared.

    The settings were chosen on nine CIFAR-10 victims of seed 2 and on digits of seed 5 (``experiments/mnp``), which no table
    that compares defenses holds.
    """

    paper = "Li, Jiang, Yi, Magnitude-based Neuron Pruning for Backdoor Defense, 2024, arXiv 2405.17750"
    version = 6
    chooses = False

    expose: bool = param(True, "use clean suppression; off: omega is the deviation alone")
    mu: float = param(5e-4, "weight decay of clean suppression", low=0)
    suppression_lr: float = param(0.01, "learning rate of clean suppression", above=0)
    suppression_steps: int = param(60, "most updates of clean suppression", low=1)
    suppression_floor: float = param(0.2, "suppression stops at this accuracy on the clean budget", low=0, high=1)
    recover_steps: int = param(60, "updates of recovering masks on the suppressed weights", low=0)
    penalty: Literal["deviation", "uniform", "shuffled"] = param(
        "deviation", "what a mask pays for; for ablations: all the same, or the deviations of other neurons"
    )
    strength: float = param(0.012, "weight of the magnitude-guided penalty, per neuron", low=0)
    protect: bool = param(True, "optimise masks under clean preserving; off: prune in the order of omega")
    teacher: Literal["victim", "labels"] = param("victim", "what clean preserving and restoring aim at")
    steps: int = param(60, "mask updates", low=1)
    lr: float = param(0.2, "learning rate of all masks (SGD, momentum 0.9)", above=0)
    agreement: float = param(0.82, "share of the victim's predictions that pruning leaves", above=0, high=1)
    rounds: int = param(2, "times that the net is scored, pruned and restored", low=1)
    later_agreement: float = param(0.92, "the same share, in rounds after the first", above=0, high=1)
    restore: bool = param(True, "train the remaining weights after pruning; off: pruning alone")
    restore_steps: int = param(150, "updates of restoring, each round", low=1)
    restore_lr: float = param(0.01, "learning rate of restoring (SGD, Nesterov momentum 0.9, cosine to 0)", above=0)
    weight_decay: float = param(5e-4, "weight decay of restoring", low=0)
    wary: bool = param(True, "restore warily where a backdoor is suspected; off: aim at the victim alone")
    probes: int = param(4, "perturbations that look for a backdoor", low=1)
    probe_reach: float = param(0.5, "largest change of a pixel by them, in standard deviations of the clean pixels", above=0)
    suspicion: float = param(0.8, "share of the images that all but one must send to the same class", low=0, high=1)
    step_suspicion: float = param(0.5, "share that one step must move to a class, twice as many as to any other", low=0, high=1)
    most: float = param(0.5, "largest step to harden against, in standard deviations of the clean pixels; 0: never", low=0)
    cost: float = param(0.04, "share of the victim's predictions that hardening may cost, else it is undone", low=0, high=1)
    steady: float = param(0.125, "step, in the same unit, that restoring withstands where the victim does; 0: none", low=0)
    moved: float = param(
        0.25, "the victim does where a step changes this share of its answers at most, by the median of classes", low=0, high=1
    )
    batch_size: int = param(128, "images per step", low=2)

    def objection(self, model: nn.Module) -> str | None:
        return channel.objection(model)

    def purify(self, view: DefenderView, tools: DefenseContext) -> Purified:
        case = Case.of(view, tools)
        victim, neurons = case.victim, case.neurons
        net, gone = victim, case.nobody()
        found: list[dict[str, Any]] = []
        rounds: list[dict[str, Any]] = []
        way: list[tuple[Tensor, nn.Module, nn.Module]] = []
        probes: list[Probe] = []
        target, step, most = None, 0.0, self.most
        for number in range(self.rounds):
            last = number == self.rounds - 1
            found.append(self.search(case, net, gone, self.later_agreement if number else self.agreement))
            more = found[-1]["order"][: found[-1]["depth"]]
            gone = torch.cat([gone, more])
            net = pruned = pruned_copy(net, neurons, gone)
            share = {"pruned": case.agreement(net)}
            if not probes:
                probes = self.look(case, net)
                target = self.suspect(probes, self.reached(case, victim, self.probe_reach / 2))
            if self.restore:
                case = self.steadied(case) if last else case
                wary = target if self.wary else None
                net = self.restored(case, pruned, pruned, gone, wary, step)
                if wary is not None:
                    net, step, most = self.hardened(case, pruned, net, gone, wary, step, most)
            share["repaired"] = case.agreement(net)
            way.append((more, pruned, net))
            rounds.append({"pruned": len(gone), "path of pruned, agreement": found[-1]["path"], "agreement": share})
        empty_filters(net, neurons, gone, case.budget[:2].pixels())
        report = {
            "pruned": len(gone),
            "of": neurons.count,
            "layers": neurons.summary(gone.tolist()),
            "agreement": rounds[-1]["agreement"],
            "rounds": rounds,
            "suspected target": target,
            "hardened by": step,
            "steady by": case.steady,
            **self.verdict(case, probes, target, net),
        }
        details = {name: found[0][name] for name in ("magnitude", "saliency", "deviation", "growth", "recovered", "mask")}
        order = found[0]["order"]
        details["rank"] = torch.cat([gone, order[~torch.isin(order, gone)]]).argsort()  # 0 is pruned first
        details["pruned"] = torch.zeros(neurons.count, dtype=torch.int64, device=tools.device).index_fill(0, gone, 1)
        shown = max(probes, key=lambda probe: probe.rate - probe.pruned_rate)
        path = partial(along, victim, way, neurons)
        return Purified(model=net, report=report, path=path, details=details, perturbation=shown.delta)

    def optimise_masks(self, view: DefenderView, neurons: Neurons, tools: DefenseContext) -> Tensor:
        """Masks in [0, 1], [neurons]: below 0.5 the neurons that the blind choice prunes, in the order of pruning."""
        case = Case(view.model.requires_grad_(False).eval(), neurons, concat([view.clean, view.validation]), tools)
        found = self.search(case, case.victim, case.nobody(), self.agreement)
        out: Tensor = 0.5 + found["mask"] / 2
        first = found["order"][: found["depth"]]
        out[first] = torch.linspace(0, 0.49, len(first), device=tools.device)
        return out

    # -- pruning

    def search(self, case: Case, net: nn.Module, gone: Tensor, least: float) -> dict[str, Any]:
        """What to prune next in ``net``, the victim or what earlier rounds made of it; ``gone``, int64, is pruned already.

        Pruning leaves a share ``least`` of the victim's predictions.

        Returns:
            Masks and what they come from, float32 [neurons]; ``order`` of pruning, int64, of what is not gone; ``depth``, how
            many of it may go, and the path to it.
        """
        neurons, tools = case.neurons, case.tools
        magnitude, saliency = neurons.magnitude(net), neurons.saliency(net, case.budget)
        logs = [value.clamp(min=1e-12).log() for value in (magnitude, saliency)]
        deviation = neurons.standardise(logs[0]) - neurons.standardise(logs[1])
        recovered = growth = torch.ones_like(deviation)
        if self.expose:
            exposed = self.suppress(case, net)
            growth = neurons.weights(exposed, "weight") / neurons.weights(net, "weight").clamp(min=1e-12)
            recovered = self.recover(case, exposed)
        omega = deviation.clamp(0, 5).square() / 15 + (1 - recovered)
        if self.penalty == "uniform":
            omega = omega.mean().expand(neurons.count).clone()
        elif self.penalty == "shuffled":
            omega = omega[torch.randperm(neurons.count, generator=tools.generator, device=tools.device)]
        mask = self.masks(case, net, omega) if self.protect else torch.ones_like(omega)
        order = (mask - 1e-3 * omega / omega.max().clamp(min=1e-12)).argsort()
        order = order[~torch.isin(order, gone)]
        depth, path = self.depth(case, net, gone, order, least)
        return {
            "magnitude": magnitude,
            "saliency": saliency,
            "deviation": deviation,
            "growth": growth,
            "recovered": recovered,
            "mask": mask,
            "order": order,
            "depth": depth,
            "path": path,
        }

    def suppress(self, case: Case, net: nn.Module) -> nn.Module:
        """Clean suppression: a copy of the net driven up its clean loss until it has forgotten the clean task."""
        exposed = copy.deepcopy(net).requires_grad_(True).train()
        optimiser = torch.optim.SGD(exposed.parameters(), self.suppression_lr, momentum=0.9, weight_decay=2 * self.mu)
        recent: deque[float] = deque(maxlen=max(1, len(case.budget) // self.batch_size))
        for step in range(self.suppression_steps):
            x, y = case.draw(self.batch_size)
            out = forward(exposed, x, case.tools)
            descend(-F.cross_entropy(out, y), optimiser, clip=20.0)
            case.tools.busy("MNP: clean suppression", step + 1, self.suppression_steps)
            recent.append(float((out.argmax(1) == y).float().mean()))
            if sum(recent) <= self.suppression_floor * len(recent):
                break
        return exposed.requires_grad_(False)

    def recover(self, case: Case, exposed: nn.Module) -> Tensor:
        """Masks on the suppressed net's scales that bring the clean task back, [neurons], batch statistics."""
        masks = torch.ones(case.neurons.count, device=case.tools.device, requires_grad=True)
        optimiser = torch.optim.SGD([masks], self.lr, momentum=0.9)
        exposed.train()
        for step in range(self.recover_steps):
            x, y = case.draw(self.batch_size, augment=False)
            out = self._masked(case, exposed, masks, None, x)
            self._project(masks, optimiser, 0.2 * F.cross_entropy(out, y))
            case.tools.busy("MNP: recovering masks", step + 1, self.recover_steps)
        return masks.detach()

    def masks(self, case: Case, net: nn.Module, omega: Tensor) -> Tensor:
        """Weight penalty against clean preserving on the weights of ``net``, eval mode: masks in [0, 1], [neurons]."""
        masks = torch.ones(case.neurons.count, device=case.tools.device, requires_grad=True)
        optimiser = torch.optim.SGD([masks], self.lr, momentum=0.9)
        for step in range(self.steps):
            x, y = case.draw(self.batch_size)
            with torch.no_grad():
                aim = forward(net, x, case.tools)
            loss = self._distance(aim, self._masked(case, net, masks, masks, x), y)
            self._project(masks, optimiser, loss + self.strength * (omega * masks).sum())
            case.tools.busy("MNP: weight penalty", step + 1, self.steps)
        return masks.detach()

    def depth(self, case: Case, net: nn.Module, gone: Tensor, order: Tensor, least: float) -> tuple[int, list[list[float]]]:
        """(the most of ``order`` that may go, [(pruned by then, agreement)]): steps of 15 %, ended by three misses in a row."""
        tools = case.tools
        parts = [case.budget.pixels()]
        while sum(map(len, parts)) < 500:  # few images alone say little
            parts.append(random_crop_flip(parts[0], tools.recipe.crop, tools.recipe.flip, tools.generator))
        x = torch.cat(parts)
        expected = predictions(case.victim, x, tools)
        count, best, misses = 3, 0, 0
        path: list[list[float]] = []
        while count < len(order) and misses < 3:
            said = predictions(pruned_copy(net, case.neurons, order[:count]), x, tools)
            share = float((said == expected).float().mean())
            path.append([len(gone) + count, round(share, 4)])
            best, misses = (count, 0) if share >= least else (best, misses + 1)
            tools.busy("MNP: depth of pruning", len(path), 0)
            count = max(count + 1, round(count * 1.15))
        return best, path

    # -- restoring

    def steadied(self, case: Case) -> Case:
        """``case`` with the step under which the victim keeps nearly all of its answers, towards half of the classes or more."""
        changed = []
        for _, x, said in self.stepped(case, case.victim, self.steady) if self.steady else ():
            changed.append(float((said != predictions(case.victim, x, case.tools)).float().mean()))
        return replace(case, steady=self.steady) if changed and median(changed) <= self.moved else case

    def hardened(
        self, case: Case, pruned: nn.Module, net: nn.Module, gone: Tensor, target: int, step: float, most: float
    ) -> tuple[nn.Module, float, float]:
        """The restored ``net``, hardened further for as long as steps lead to ``target`` and it is not too dear.

        Also the last step, and the largest that later rounds may try: the last, once one was too dear.
        """
        least = case.agreement(net) - self.cost
        while step < most and self.near(case, net, target):
            further = min(max(2 * step, self.most / 4), self.most)
            tried = self.restored(case, pruned, net, gone, target, further)
            if case.agreement(tried) < least:
                return net, step, step
            net, step = tried, further
        return net, step, most

    def restored(
        self, case: Case, pruned: nn.Module, start: nn.Module, gone: Tensor, target: int | None, step: float = 0.0
    ) -> nn.Module:
        """``start``, the pruned net or what was restored of it, its other weights trained to give the victim's outputs.

        Warily, where a ``target`` is suspected, and hardened against a ``step`` towards it, if that is not 0.
        """
        tools = case.tools
        net = copy.deepcopy(start).requires_grad_(True).eval()
        updates = self.restore_steps if start is pruned else max(1, self.restore_steps // 2)
        if target is not None:
            freeze_early(net, case.neurons)
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        optimiser = torch.optim.SGD(trained, self.restore_lr, momentum=0.9, nesterov=True, weight_decay=self.weight_decay)
        for update in range(updates):
            optimiser.param_groups[0]["lr"] = self.restore_lr * cosine(update, updates)
            x, y = case.draw(self.batch_size)
            if self.teacher == "victim":
                x = mix(x, tools.generator)
            with torch.no_grad():
                aim = forward(case.victim, x, tools).log_softmax(1)
                if target is not None:
                    aim[:, target] = torch.minimum(aim, forward(pruned, x, tools).log_softmax(1))[:, target]
            loss = self._distance(aim, forward(net, x, tools), y)
            part = slice(max(1, len(x) // 2))
            if step or case.steady:
                random = torch.randint(aim.shape[1], y[part].shape, generator=tools.generator, device=y.device)
                to = random if target is None or not step else torch.full_like(random, target)
                moved = nudged(net, x[part], to, (step or case.steady) * case.spread, tools)
                loss = loss + self._distance(aim[part], forward(net, moved, tools), y[part])
            if target is not None:
                shaded = (x[part] + shading(x[part], self.probe_reach * case.spread, tools.generator)).clamp(0, 1)
                loss = loss + 0.5 * self._distance(aim[part], forward(net, shaded, tools), y[part])
            descend(loss, optimiser, clip=2.0)
            prune(net, case.neurons, gone, bias=True)
            tools.busy("MNP: restoring", update + 1, updates)
        return net.requires_grad_(False)

    # -- what is left

    def look(self, case: Case, pruned: nn.Module) -> list[Probe]:
        """Perturbations on which victim and pruned net disagree most, each from images and a start of its own."""
        found, eps = [], self.probe_reach * case.spread
        for number in range(self.probes):
            x, _ = case.draw(self.batch_size, augment=False)
            found.append(find_probe(case.victim, pruned, x[:64], case.tools, eps=eps, through=True))
            case.tools.busy("MNP: probing", number + 1, self.probes)
        return found

    @staticmethod
    def reached(case: Case, net: nn.Module, step: float) -> dict[int, float]:
        """Share of the images of other classes that one ``step``, each by its own gradient, moves to each class.

        Steps are measured in standard deviations of the clean pixels.
        """
        return {label: float((said == label).float().mean()) for label, _, said in MNP.stepped(case, net, step)}

    @staticmethod
    def stepped(case: Case, net: nn.Module, step: float) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each class: the class, images of others, and what the net says of them after one ``step`` towards it."""
        budget = case.budget
        labels = sorted(set(budget.y.tolist()))
        for label in labels if len(labels) > 1 else []:
            x = budget[(budget.y != label).nonzero().flatten()[:128]].pixels()
            moved = nudged(net, x, torch.full((len(x),), label, device=x.device), step * case.spread, case.tools)
            yield label, x, predictions(net, moved, case.tools)

    def near(self, case: Case, net: nn.Module, target: int) -> bool:
        """Whether one step, as far as perturbations reach, moves more images to ``target`` than, on average, to another class."""
        rates = self.reached(case, net, self.probe_reach)
        others = [rate for label, rate in rates.items() if label != target]
        return bool(others) and rates.get(target, 0.0) > sum(others) / len(others)

    def suspect(self, probes: list[Probe], reached: dict[int, float]) -> int | None:
        """The class to which all perturbations but one send nearly every image, if there is one and none to another; else the
        class that half of the images reach, and at least twice as many as reach any other.
        """
        found = [probe.target for probe in probes if probe.rate >= self.suspicion]
        if len(set(found)) == 1 and len(found) >= max(1, len(probes) - 1):
            return found[0]
        if len(reached) < 2:
            return None  # clean images of one class
        first, second, *_ = sorted(reached, key=reached.__getitem__, reverse=True)
        return first if reached[first] >= max(self.step_suspicion, 2 * reached[second]) else None

    def verdict(self, case: Case, probes: list[Probe], target: int | None, repaired: nn.Module) -> dict[str, Any]:
        """What the perturbations still do to the repaired net, in figures and in one honest sentence."""
        x = case.budget.pixels()[:256]
        rows = []
        for found in probes:
            moved = found.on(x)
            with torch.no_grad():
                before, after = (
                    float((forward(net, moved, case.tools).argmax(1) == found.target).float().mean())
                    for net in (case.victim, repaired)
                )
            rows.append({"class": found.target, "victim": round(before, 4), "repaired": round(after, 4)})
        worst = max(rows, key=lambda row: row["repaired"])
        if worst["repaired"] > 0.5 and worst["repaired"] > 0.5 * worst["victim"]:
            share = f"{100 * worst['repaired']:.0f} % of the images to class {worst['class']}"
            word = f"not repaired: one perturbation still sends {share}"
        elif target is None:
            word = "no backdoor was found before the repair, and none after it; that is no proof"
        elif self.near(case, repaired, target):
            word = f"perhaps not repaired: small changes lead to class {target} more easily than to others"
        else:
            word = f"what led to class {target} is gone as far as we can find; that is no proof"
        return {"probes": rows, "verdict": word}

    # -- parts of a step

    def _distance(self, aim: Tensor, out: Tensor, y: Tensor) -> Tensor:
        """Clean preserving: divergence of ``out`` from the teacher's outputs ``aim``, or cross entropy of the labels."""
        return F.cross_entropy(out, y) if self.teacher == "labels" else divergence(aim, out)

    @staticmethod
    def _masked(case: Case, net: nn.Module, scale: Tensor, shift: Tensor | None, x: Tensor) -> Tensor:
        with autocast(case.tools.recipe.precision, case.tools.device):
            return case.neurons.forward(net, in_layout_of(net, x), scale, shift).float()

    @staticmethod
    def _project(masks: Tensor, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        """One projected step on masks in [0, 1]."""
        descend(loss, optimiser)
        masks.data.clamp_(0, 1)


@defenses.register("mnp-prune")
@dataclass(frozen=True, kw_only=True)
class MNPPrune(MNP):
    """MNP's pruning alone: nothing is trained, so that pruning stops earlier."""

    agreement: float = param(0.93, "share of the victim's predictions that pruning leaves", above=0, high=1)
    rounds: int = param(1, "times that the net is scored and pruned", low=1)
    restore: bool = param(False, "train the remaining weights after pruning")


def pruned_copy(net: nn.Module, neurons: Neurons, gone: Tensor) -> nn.Module:
    """A copy of ``net`` without the neurons ``gone`` (int64), eval mode."""
    pruned = copy.deepcopy(net)
    prune(pruned, neurons, gone, bias=True)
    return pruned.eval()


def along(victim: nn.Module, way: list[tuple[Tensor, nn.Module, nn.Module]], neurons: Neurons) -> Candidates:
    """Nets on the way of a repair: the victim, and of each round some at which pruning passed, the last and what was restored.

    Args:
        victim: where it began.
        way: of each round the neurons it pruned, in their order, the net without them, and the net it ended with.
        neurons: of these nets.
    """
    yield {"pruned": 0}, victim
    net, before = victim, 0
    for gone, pruned, restored in way:
        for count in sorted({len(gone) * part // 6 for part in range(1, 6)} - {0}):
            yield {"pruned": before + count}, pruned_copy(net, neurons, gone[:count])
        before += len(gone)
        yield {"pruned": before}, pruned
        if restored is not pruned:
            yield {"pruned": before}, restored
        net = restored


def freeze_early(net: nn.Module, neurons: Neurons) -> None:
    """Exclude the earlier half of the layers from training, in place."""
    for layer in neurons.layers[: len(neurons.layers) // 2]:
        names = [entries.parameter for entries in (layer.weight, layer.bias) if entries is not None]
        for name in [*names, *([f"{layer.conv}.weight"] if layer.conv else [])]:
            net.get_parameter(name).requires_grad_(False)


def shading(x: Tensor, most: float, generator: torch.Generator | None) -> Tensor:
    """Smooth random changes of images [N, C, H, W], one for each: 4 x 4 values in [-most, most], interpolated."""
    coarse = (2 * torch.rand((*x.shape[:2], 4, 4), generator=generator, device=x.device) - 1) * most
    return F.interpolate(coarse, size=x.shape[2:], mode="bicubic", align_corners=False)


def empty_filters(net: nn.Module, neurons: Neurons, gone: Tensor, x: Tensor) -> None:
    """Set the filters of pruned neurons to 0, in place; what a neuron makes of them is 0 already, and now its gradient is, too.

    In a pre-activation net a skip reads some of them, too: a layer whose filters change what the net says of the images ``x``
    keeps them.
    """
    said = logits(net, x)
    dead = torch.zeros(neurons.count, dtype=torch.bool, device=neurons.device).index_fill(0, gone, True)
    for layer in neurons.layers:
        if layer.conv is not None:
            weight = net.get_submodule(layer.conv).weight
            assert isinstance(weight, Tensor)
            own = dead[layer.start : layer.stop]
            with torch.no_grad():
                before = weight[own].clone()
                weight[own] = 0
                if not torch.equal(logits(net, x), said):
                    weight[own] = before

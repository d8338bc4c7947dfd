"""ANP's recipe in three steps: train a backdoored net, optimise the masks of its neurons, prune by mask.

Source: Wu, Wang, Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021, arXiv 2110.14430, and its released
code, whose arguments, files and odd corners this follows. Deviations: momentum is Nesterov's, crops reflect the border instead
of padding it with zeros, an epoch leaves out a last smaller batch, and the masked net is measured with the checkpoint's own
running statistics (theirs have drifted by then).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import DefenderView, DefenseContext, ImageData, Images, Recipe
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.split import validation_part
from mnp_plugin.defenses.anp import ANP
from mnp_plugin.defenses.mnp import MNP
from mnp_plugin.integrations.anp.data import Evaluation, build, divide, published_trigger, stamp
from mnp_plugin.integrations.anp.files import MaskRow, PruningRow, write_trigger
from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.io.safe import read_array
from mnp_plugin.io.torch_writer import plain_weights, write_torch
from mnp_plugin.neurons.channels import Neurons, scale
from mnp_plugin.training.loop import fit

Say = Callable[[str], None]
TRAIN_HEADER = "Epoch \t lr \t Time \t TrainLoss \t TrainACC \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC"
MASK_TABLE = "Iter \t lr \t Time \t TrainLoss \t TrainACC \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC"
PRUNING_TABLE = "No. \t Layer Name \t Neuron Idx \t Mask \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC"
RESERVED = 0.1
"""Share of the training images that the attacker does not get."""


def _scores(values: tuple[float, ...]) -> str:
    return " \t ".join(f"{value:.4f}" for value in values)


# --------------------------------------------------------------------------------------------------------------- step 1


@dataclass(frozen=True, kw_only=True)
class Training:
    """The arguments of step 1 that say how the victim is made."""

    arch: str = "resnet18"
    batch_size: int = 128
    epoch: int = 200
    schedule: tuple[int, ...] = (100, 150)
    save_every: int = 20
    poison_type: str = "badnets"
    poison_rate: float = 0.05
    poison_target: int = 0
    trigger_alpha: float = 1.0
    clb_dir: Path | None = None
    seed: int = 0


def train_backdoor(how: Training, data: ImageData, order: Tensor, device: torch.device, output: Path, say: Say) -> None:
    """Poison, train, and write ``model_init.th``, ``trigger_info.th``, ``model_{epoch}.th``, ``model_last.th`` and its other
    name ``last_model.th``, and ``output.log``. Epochs run from 1 to ``epoch`` - 1, as in the recipe.

    Raises:
        UserError: arguments out of range, or clean-label images that do not fit.
    """
    if how.epoch < 2:
        raise UserError(f"--epoch {how.epoch} trains nothing: epochs run from 1 to one less, so give at least 2")
    if how.save_every < 1 or not 0 <= how.poison_rate <= 1:
        raise UserError("--save-every must be at least 1 and --poison-rate lie in [0, 1]")
    if not 0 <= how.poison_target < len(data.classes):
        raise UserError(f"--poison-target {how.poison_target} is outside the classes 0..{len(data.classes) - 1}")
    recipe = Recipe(epochs=how.epoch - 1, batch_size=how.batch_size, lr=0.1, momentum=0.9, weight_decay=5e-4, warmup=0.0)
    torch.manual_seed(how.seed)
    generator = torch.Generator().manual_seed(how.seed)
    attacker, _ = divide(data.train, RESERVED, order)
    train, index = _poisoned(how, attacker, generator)
    trigger = published_trigger(how.poison_type, how.poison_target, how.trigger_alpha, index)
    test = Evaluation(data=data, trigger=trigger, batch_size=how.batch_size, device=device)
    net = build(how.arch, len(data.classes))
    save_net(output / "model_init.th", net)
    if trigger is not None:
        write_trigger(output / "trigger_info.th", trigger)
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(f"[{time.strftime('%Y/%m/%d %H:%M:%S')}] - {line}")
        write_atomic(output / "output.log", ("\n".join(lines) + "\n").encode())
        say(line)

    per_epoch = max(len(train) // how.batch_size, 1)
    right, start = torch.zeros((), dtype=torch.int64, device=device), time.perf_counter()
    seen = 0

    def factor(epoch: int) -> float:
        return 0.1 ** sum(milestone <= epoch - 1 for milestone in how.schedule)

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        nonlocal seen
        out = model(x)
        right.add_((out.argmax(1) == y).sum())
        seen += len(y)
        return F.cross_entropy(out, y)

    def after(epoch: int, _: int, mean: float) -> None:
        nonlocal seen, start
        values = (mean, int(right) / seen, *test.scores(net))
        log(f"{epoch} \t {0.1 * factor(epoch):.3f} \t {time.perf_counter() - start:.1f} \t {_scores(values)}")
        if (epoch + 1) % how.save_every == 0:
            save_net(output / f"model_{epoch}.th", net)
        right.zero_()
        seen, start = 0, time.perf_counter()
        net.train()

    log(str(how))
    log(TRAIN_HEADER)
    fit(
        net,
        train.to(device),
        recipe,
        torch.Generator(device=device).manual_seed(how.seed),
        loss=loss,
        progress=after,
        schedule=lambda step, _steps, _recipe: factor(step // per_epoch + 1),
    )
    for name in ("model_last.th", "last_model.th"):  # their code says one, their recipe the other
        save_net(output / name, net)


def _poisoned(how: Training, attacker: Images, generator: torch.Generator) -> tuple[Images, Tensor | None]:
    """(training set, which of its images are poisoned or None): uniformly among the images of other classes."""
    if how.poison_type == "benign":
        return attacker, None
    if how.poison_type == "clean-label":
        return _clean_label(how.clb_dir, attacker), None
    candidates = (attacker.y != how.poison_target).nonzero().flatten()
    count = int(how.poison_rate * len(candidates))
    if count == 0:
        raise UserError(f"--poison-rate {how.poison_rate} of {len(candidates)} images of other classes is none; raise it")
    index = candidates[torch.randperm(len(candidates), generator=generator)[:count]]
    trigger = published_trigger(how.poison_type, how.poison_target, how.trigger_alpha)
    assert trigger is not None
    x, y = attacker.x.clone(), attacker.y.clone()
    x[index] = stamp(x[index], trigger)
    y[index] = how.poison_target
    return Images(x, y), index


def _clean_label(folder: Path | None, attacker: Images) -> Images:
    """A training set made elsewhere: ``train_images.npy`` [N, H, W, C] in 0..255 and ``train_labels.npy`` [N]."""
    if folder is None:
        raise UserError("--poison-type clean-label needs --clb-dir, a folder with train_images.npy and train_labels.npy")
    x, y = read_array(folder / "train_images.npy"), read_array(folder / "train_labels.npy")
    if x.ndim != 4 or x.shape[1:] != (*attacker.x.shape[2:], attacker.x.shape[1]) or y.shape != x.shape[:1] or not len(y):
        raise UserError(
            f"{folder}: images {list(x.shape)} and labels {list(y.shape)} do not fit; expected [N, 32, 32, 3] and [N]"
        )
    if x.min() < 0 or x.max() > 255 or y.min() < 0 or y.max() > int(attacker.y.max()) or y.dtype.kind not in "iu":
        raise UserError(f"{folder}: pixels must lie in 0..255 and labels be classes of the data set")
    pixels = np.ascontiguousarray(x.astype(np.uint8).transpose(0, 3, 1, 2))
    return Images(torch.from_numpy(pixels), torch.from_numpy(y.astype(np.int64)))


def save_net(path: Path, net: nn.Module) -> None:
    """Write the plain state dict of ``net``, on the CPU."""
    write_torch(path, plain_weights(net.state_dict()))


# --------------------------------------------------------------------------------------------------------------- step 2


def optimise_masks(
    net: nn.Module, method: ANP | MNP, defender: Images, test: Evaluation, say: Say, *, print_every: int = 500, seed: int = 0
) -> list[MaskRow]:
    """Masks of every neuron of ``net``, in the order of its state dict.

    Args:
        net: takes pixels in [0, 1]; stays as it is.
        method: ANP, whose iterations are reported, or MNP, whose masks are those of its blind choice, before the cut.
        defender: clean images.
        test: what the console table measures; nothing of it reaches the method.
        say: prints a line of the recipe's table.
        print_every: iterations between lines.
        seed: of the random stream.
    """
    device = test.device
    net.to(device).eval()
    torch.manual_seed(seed)
    clean = defender.to(device)
    part = validation_part(clean.y, 0.2) if isinstance(method, MNP) else torch.zeros_like(clean.y, dtype=torch.bool)
    view = DefenderView(model=net, clean=clean[~part], validation=clean[part], num_classes=len(test.data.classes))
    tools = DefenseContext(
        device=device,
        generator=torch.Generator(device=device).manual_seed(seed),
        recipe=Recipe(),
        fresh_net=lambda: build("resnet18", len(test.data.classes)),
    )
    neurons = Neurons(net, clean[:1].pixels())
    start = time.perf_counter()
    losses: list[float] = []
    accuracies: list[float] = []

    def report(iteration: int, lr: float, masks: Tensor) -> None:
        values = (
            *(math.fsum(v) / len(v) if v else math.nan for v in (losses, accuracies)),
            *_masked_scores(net, neurons, masks, test),
        )
        say(f"{iteration} \t {lr:.3f} \t {time.perf_counter() - start:.1f} \t {_scores(values)}")

    def told(iteration: int, masks: Tensor, loss: float, accuracy: float) -> None:
        nonlocal start
        losses.append(loss)
        accuracies.append(accuracy)
        if iteration % print_every == 0:
            report(iteration, method.lr, masks)
            start = time.perf_counter()
            losses.clear()
            accuracies.clear()

    say(MASK_TABLE)
    if isinstance(method, ANP):
        masks = method.optimise_masks(view, neurons, tools, told)
    else:
        masks = method.optimise_masks(view, neurons, tools)
        report(method.steps, method.lr, masks)
    return [MaskRow(*neurons.locate(i), value) for i, value in enumerate(masks.cpu().tolist())]


def _masked_scores(net: nn.Module, neurons: Neurons, masks: Tensor, test: Evaluation) -> tuple[float, ...]:
    before = {layer.name: net.get_parameter(f"{layer.name}.weight").detach().clone() for layer in neurons.layers}
    scale(net, neurons, masks, bias=False)
    try:
        return test.scores(net)
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                net.get_parameter(f"{name}.weight").copy_(weight)


# --------------------------------------------------------------------------------------------------------------- step 3


def prune_by(
    net: nn.Module, masks: list[MaskRow], by: str, most: float, step: float, test: Evaluation, say: Say
) -> list[PruningRow]:
    """Prune ``net`` in place, lowest mask first, scale to 0 and bias kept, and measure after every step.

    Args:
        net: takes pixels in [0, 1].
        masks: in any order; equal masks keep the order they come in.
        by: ``threshold``: at 0, step, ... the neurons with a mask up to it; ``number``: ``step`` more at a time.
        most: the last threshold; or the number at which the last step begins.
        step: distance of thresholds, or neurons per step.
        test: what is measured.
        say: prints a line of the recipe's table.

    Raises:
        UserError: steps that lead nowhere, or masks of another net.
    """
    if not (math.isfinite(most) and math.isfinite(step) and step > 0 and most >= 0):
        raise UserError("--pruning-step must be above 0 and --pruning-max at least 0")
    if most / step > 100_000:
        raise UserError(f"--pruning-max {most} in steps of {step} are too many steps")
    order = sorted(masks, key=lambda row: row.score)
    weights = _scales(net, order)
    net.to(test.device)
    say(PRUNING_TABLE)
    say(f"0 \t None     \t None     \t {_scores(test.scores(net))}")
    rows: list[PruningRow] = []

    def measure(done: int, upto: int, named: int, mask: float | None) -> None:
        with torch.no_grad():
            for row in order[done:upto]:
                weights[row.layer][row.index] = 0.0
        neuron = order[named]
        value = neuron.score if mask is None else mask
        rows.append(PruningRow(upto, neuron.layer, neuron.index, value, *test.scores(net)))
        say(rows[-1].text(by))

    done = 0
    if by == "threshold":
        for threshold in np.arange(0, most + step, step).tolist():
            upto = sum(row.score <= threshold for row in order)
            measure(done, upto, min(upto, len(order) - 1), threshold)
            done = upto
    else:
        for start in range(0, math.ceil(most) + 1, math.ceil(step)):
            upto = min(start + math.ceil(step), len(order))
            if upto > done:  # theirs fails when all are pruned; this ends there
                measure(done, upto, upto - 1, None)
                done = upto
    return rows


def _scales(net: nn.Module, masks: list[MaskRow]) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    modules = dict(net.named_modules())
    for row in masks:
        norm = modules.get(row.layer)
        if not isinstance(norm, nn.BatchNorm2d) or not 0 <= row.index < norm.num_features:
            raise UserError(
                f"these masks are of another net: it has no channel {row.index} of a batch normalisation '{row.layer[:80]}'"
            )
        found[row.layer] = norm.weight
    return found

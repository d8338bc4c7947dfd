"""``mnp-bench anp``: train-backdoor, optimize-mask, prune, with the arguments of ANP's released scripts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnp_plugin.integrations.anp.data import Evaluation

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "MobileNetV2", "vgg19_bn")
POISON_TYPES = ("badnets", "blend", "clean-label", "benign")


def add(verbs: Verbs) -> None:
    """Register the verbs."""
    text = "ANP's recipe, step by step, with the files and arguments of its released scripts"
    group = verbs.add_parser("anp", help=text, description=text)
    inner = group.add_subparsers(required=True, metavar="STEP")

    def step(name: str, text: str) -> argparse.ArgumentParser:
        verb = inner.add_parser(name, help=text, description=text)
        verb.add_argument("--arch", default="resnet18", choices=ARCHS, help="net; only resnet18 is provided here")
        verb.add_argument("--widen-factor", type=int, default=1, help="accepted and unused, as in the recipe")
        verb.add_argument("--batch-size", type=int, default=128, help="images per step")
        verb.add_argument(
            "--data-dir", type=Path, default=Path("../data"), help="CIFAR-10, or a tree train/<class>/ test/<class>/"
        )
        verb.add_argument("--output-dir", type=Path, default=Path("logs/models/"), help="folder to write to")
        verb.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (not in the recipe)")
        verb.add_argument("--store", type=Path, default=None, help="cache of decoded pictures (not in the recipe)")
        return verb

    def trigger(verb: argparse.ArgumentParser, default: str) -> None:
        verb.add_argument("--poison-type", default=default, choices=POISON_TYPES, help="attack")
        verb.add_argument("--poison-target", type=int, default=0, help="target class")
        verb.add_argument("--trigger-alpha", type=float, default=1.0, help="opacity of the trigger; 0.2 for blend")

    def seeded(verb: argparse.ArgumentParser) -> None:
        verb.add_argument(
            "--shuffle-file", type=Path, default=None, help="the recipe's cifar_shuffle.txt (default: a fixed seed)"
        )
        verb.add_argument("--seed", type=int, default=0, help="of weights and draws (not in the recipe)")

    verb = step("train-backdoor", "train a backdoored net: writes model_last.th and trigger_info.th")
    verb.add_argument("--epoch", type=int, default=200, help="epochs run from 1 to one less")
    verb.add_argument(
        "--schedule", type=int, nargs="+", default=[100, 150], help="epochs after which the learning rate falls to 1/10"
    )
    verb.add_argument("--save-every", type=int, default=20, help="epochs between checkpoints")
    verb.add_argument("--clb-dir", type=_file, default=None, help="train_images.npy and train_labels.npy for clean-label")
    verb.add_argument("--poison-rate", type=float, default=0.05, help="share of the images of other classes that are poisoned")
    trigger(verb, "badnets")
    seeded(verb)
    verb.set_defaults(call=_train)

    verb = step("optimize-mask", "optimise the masks of all neurons on a few clean images: writes mask_values.txt")
    verb.add_argument("--checkpoint", "--checkpoints", type=Path, required=True, help="state dict, theirs or ours")
    verb.add_argument("--lr", type=float, default=0.2, help="learning rate of the masks")
    verb.add_argument("--nb-iter", type=int, default=2000, help="mask updates, rounded up to whole rounds of --print-every")
    verb.add_argument("--print-every", type=int, default=500, help="mask updates between lines of the table")
    verb.add_argument("--val-frac", type=float, default=0.01, help="share of the training images that the defender has")
    verb.add_argument("--trigger-info", type=_file, default=None, help="trigger_info.th, for the table alone")
    trigger(verb, "benign")
    verb.add_argument("--anp-eps", type=float, default=0.4, help="size of the neuron perturbation")
    verb.add_argument("--anp-steps", type=int, default=1, help="ascent steps per update")
    verb.add_argument("--anp-alpha", type=float, default=0.2, help="weight of the unperturbed loss")
    verb.add_argument(
        "--method", choices=("anp", "mnp"), default="anp", help="mnp: MNP's masks (its own settings; not in the recipe)"
    )
    seeded(verb)
    verb.set_defaults(call=_optimise)

    verb = step("prune", "prune neurons by their masks and measure: writes pruning_by_threshold.txt or pruning_by_number.txt")
    verb.add_argument("--checkpoint", "--checkpoints", type=Path, required=True, help="state dict, theirs or ours")
    verb.add_argument("--trigger-info", type=_file, default=None, help="trigger_info.th")
    trigger(verb, "benign")
    verb.add_argument("--mask-file", type=Path, required=True, help="mask_values.txt of ANP, RNP or MNP")
    verb.add_argument("--pruning-by", default="threshold", choices=("number", "threshold"))
    verb.add_argument(
        "--pruning-max", type=float, default=0.90, help="largest threshold, or number at which the last step begins"
    )
    verb.add_argument("--pruning-step", type=float, default=0.05, help="distance of thresholds, or neurons per step")
    verb.add_argument("--newlines", action="store_true", help="end the lines of pruning_by_number.txt (not in the recipe)")
    verb.set_defaults(call=_prune)


def _file(text: str) -> Path | None:
    return Path(text) if text else None  # the recipe's own default is an empty text


def _evaluation(arguments: argparse.Namespace, *, trigger: bool) -> Evaluation:
    from mnp_plugin.benchmark.store import default_cache
    from mnp_plugin.core.errors import UserError
    from mnp_plugin.core.paths import from_home
    from mnp_plugin.integrations.anp.data import Evaluation, chosen_trigger, load_data
    from mnp_plugin.training.device import pick_device

    if arguments.batch_size < 2:
        raise UserError(f"--batch-size must be at least 2, not {arguments.batch_size}")
    device = pick_device(arguments.device)
    data = load_data(from_home(arguments.data_dir), arguments.store or default_cache())
    found = None
    if trigger:
        kind, target, alpha = arguments.poison_type, arguments.poison_target, arguments.trigger_alpha
        found = chosen_trigger(arguments.trigger_info, kind, target, alpha, data)
    return Evaluation(data=data, trigger=found, batch_size=arguments.batch_size, device=device)


def _train(arguments: argparse.Namespace) -> int:
    from mnp_plugin.integrations.anp.data import shuffled
    from mnp_plugin.integrations.anp.recipe import Training, train_backdoor

    test = _evaluation(arguments, trigger=False)
    how = Training(
        arch=arguments.arch,
        batch_size=arguments.batch_size,
        epoch=arguments.epoch,
        schedule=tuple(arguments.schedule),
        save_every=arguments.save_every,
        poison_type=arguments.poison_type,
        poison_rate=arguments.poison_rate,
        poison_target=arguments.poison_target,
        trigger_alpha=arguments.trigger_alpha,
        clb_dir=arguments.clb_dir,
        seed=arguments.seed,
    )
    order = shuffled(len(test.data.train), arguments.shuffle_file)
    train_backdoor(how, test.data, order, test.device, arguments.output_dir, print)
    return 0


def _optimise(arguments: argparse.Namespace) -> int:
    from mnp_plugin.core.errors import UserError
    from mnp_plugin.defenses.anp import ANP
    from mnp_plugin.defenses.mnp import MNP
    from mnp_plugin.integrations.anp.data import divide, load_net, shuffled
    from mnp_plugin.integrations.anp.files import write_masks
    from mnp_plugin.integrations.anp.recipe import optimise_masks

    if arguments.print_every < 1:
        raise UserError(f"--print-every must be at least 1, not {arguments.print_every}")
    rounds = max(-(-arguments.nb_iter // arguments.print_every), 0)
    method: ANP | MNP = MNP(batch_size=arguments.batch_size)
    if arguments.method == "anp":
        method = ANP(
            eps=arguments.anp_eps,
            steps=arguments.anp_steps,
            alpha=arguments.anp_alpha,
            lr=arguments.lr,
            iterations=rounds * arguments.print_every,
            batch_size=arguments.batch_size,
        )
    test = _evaluation(arguments, trigger=True)
    net = load_net(arguments.arch, len(test.data.classes), arguments.checkpoint)
    _, defender = divide(test.data.train, arguments.val_frac, shuffled(len(test.data.train), arguments.shuffle_file))
    masks = optimise_masks(net, method, defender, test, print, print_every=arguments.print_every, seed=arguments.seed)
    write_masks(arguments.output_dir / "mask_values.txt", masks)
    print(f"{len(masks)} masks -> {arguments.output_dir / 'mask_values.txt'}")
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from mnp_plugin.integrations.anp.data import load_net
    from mnp_plugin.integrations.anp.files import read_masks, write_pruning
    from mnp_plugin.integrations.anp.recipe import prune_by

    masks = read_masks(arguments.mask_file)
    test = _evaluation(arguments, trigger=True)
    net = load_net(arguments.arch, len(test.data.classes), arguments.checkpoint)
    by = arguments.pruning_by
    rows = prune_by(net, masks, by, arguments.pruning_max, arguments.pruning_step, test, print)
    path = arguments.output_dir / f"pruning_by_{by}.txt"
    write_pruning(path, rows, by, newlines=arguments.newlines)
    print(f"{len(rows)} rows -> {path}")
    return 0

"""``mnp-bench purify`` and ``mnp-bench detect``: repair or judge a checkpoint of one's own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnp_plugin.core.errors import UserError

if TYPE_CHECKING:
    from mnp_plugin.api.checkpoint import OwnModel
    from mnp_plugin.contracts import Images, Recipe, Verdict

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

LEAST = 4
"""Fewest clean images."""


def add(verbs: Verbs) -> None:
    """Register the verbs."""
    text = "repair a checkpoint with a few clean images: repaired weights, what was pruned, clean accuracy before and after"
    verb = verbs.add_parser("purify", help=text, description=text)
    _inputs(verb)
    verb.add_argument("--defense", default="mnp", help="a registered defense (default: mnp)")
    verb.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="its hyper-parameters")
    verb.add_argument("--test", type=Path, metavar="FOLDER", help="further clean <class>/<image>, for an independent accuracy")
    verb.add_argument("--out", type=Path, default=Path("purified"), help="folder to write to (default: purified)")
    verb.add_argument("--force", action="store_true", help="overwrite what --out holds")
    verb.add_argument("--compact", action="store_true", help="write compact.pt2 too: pruned channels really removed")
    verb.set_defaults(call=_purify)
    text = "judge from a few clean images whether a checkpoint is backdoored: score, evidence per class, suspected target"
    verb = verbs.add_parser("detect", help=text, description=text)
    _inputs(verb)
    verb.add_argument("--detector", default="mnp", help="a registered detector of whole nets (default: mnp)")
    verb.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="its hyper-parameters")
    verb.add_argument("--json", action="store_true", help="print the verdict as JSON, nothing else")
    verb.set_defaults(call=_detect)


def _inputs(verb: argparse.ArgumentParser) -> None:
    from_user = verb.add_argument_group("your model and clean images")
    from_user.add_argument("--checkpoint", type=Path, required=True, help="state dict: .safetensors, or a file of torch.save")
    from_user.add_argument("--net", required=True, help="a registered net, see mnp-bench list")
    from_user.add_argument("--net-settings", nargs="+", default=[], metavar="KEY=VALUE", help="its settings, as width=32")
    from_user.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER", help="clean <class>/<image>; classes in alphabetical order"
    )
    from_user.add_argument("--size", type=int, help="side of the images in pixels (default: that of the first one)")
    from_user.add_argument(
        "--normalise",
        default="none",
        metavar="HOW",
        help="what the net was trained with: none (pixels in [0, 1]), measured (from --data), cifar10, imagenet, or "
        "'m,m,m,s,s,s': mean and std of R, G, B (default: none)",
    )
    from_user.add_argument("--validation", type=float, default=0.2, help="share of --data held back for choices (default: 0.2)")
    from_user.add_argument("--crop", type=int, default=4, help="augmentation: shift by up to this many pixels (default: 4)")
    from_user.add_argument("--no-flip", action="store_true", help="augmentation: images must not be mirrored (digits, text)")
    from_user.add_argument("--seed", type=int, default=0)
    from_user.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _purify(arguments: argparse.Namespace) -> int:
    from mnp_plugin.api import calls as api
    from mnp_plugin.api import checkpoint as own_model
    from mnp_plugin.contracts import defenses
    from mnp_plugin.core.params import to_plain
    from mnp_plugin.data.split import validation_part
    from mnp_plugin.evaluation.predict import accuracy
    from mnp_plugin.neurons import compact
    from mnp_plugin.neurons.summary import pruned_layers

    method = own_model.component(defenses, arguments.defense, arguments.settings)
    names = ["repaired.safetensors", "repaired.pt", "report.json", *(["compact.pt2"] if arguments.compact else [])]
    own_model.check_out(arguments.out, names, arguments.force)
    if arguments.compact:
        compact.check_available()
    own, recipe = _load(arguments, also=arguments.test)
    if reason := method.objection(own.model):
        raise UserError(f"defense '{arguments.defense}' cannot treat the net '{arguments.net}': {reason}")
    if arguments.compact:
        compact.check_net(own.model)
    test = None
    if arguments.test is not None:
        test = own_model.load_images(arguments.test, own.classes, own.images.x.shape[-1]).to(own.images.x.device)
    print(f"{arguments.defense} on {arguments.net}: {len(own.images)} clean images of {len(own.classes)} classes", flush=True)
    how: dict[str, Any] = {"validation": arguments.validation, "recipe": recipe, "seed": arguments.seed}
    result = api.purify(own.model, own.images.x, own.images.y, defense=method, **how)
    part = validation_part(own.images.y, arguments.validation)
    measured: dict[str, Any] = {"validation": _before_after(own, result.model, own.images[part], accuracy)}
    measured["validation"]["note"] = "this part also chose the stopping point"
    if test is not None:
        measured["test"] = _before_after(own, result.model, test, accuracy)
    report: dict[str, Any] = {
        "defense": to_plain(method),
        "checkpoint": str(arguments.checkpoint),
        "net": {"name": arguments.net, "settings": arguments.net_settings},
        "classes": list(own.classes),
        "normalisation": None if own.mean is None else {"mean": own.mean, "std": own.std},
        "seed": arguments.seed,
        "clean images": len(own.images),
        "clean accuracy": measured,
        "repair": dict(result.report),
        "pruned by layer": pruned_layers(own.model, result.model, own.images),
    }
    if arguments.compact:
        report["compact"] = _compact(result.model, own, arguments.out / "compact.pt2")
    _write(result.model.state_dict(), report, arguments.out)
    _show(report)
    print(f"written to {arguments.out}: {', '.join(names)}")
    return 0


def _detect(arguments: argparse.Namespace) -> int:
    from mnp_plugin.api import calls as api
    from mnp_plugin.api import checkpoint as own_model
    from mnp_plugin.contracts import ModelDetector, detectors
    from mnp_plugin.core.params import to_plain
    from mnp_plugin.evaluation.predict import accuracy

    method = own_model.component(detectors, arguments.detector, arguments.settings)
    own, recipe = _load(arguments)
    if isinstance(method, ModelDetector) and (reason := method.objection(own.model)):
        raise UserError(f"detector '{arguments.detector}' cannot judge the net '{arguments.net}': {reason}")
    how: dict[str, Any] = {"validation": arguments.validation, "recipe": recipe, "seed": arguments.seed}
    verdict = api.detect(own.model, own.images.x, own.images.y, detector=method, **how)
    found = {
        "detector": to_plain(method),
        "checkpoint": str(arguments.checkpoint),
        "clean images": len(own.images),
        "clean accuracy": accuracy(own.model, own.images),
        "score": verdict.score,
        "threshold": verdict.threshold,
        "backdoored": verdict.backdoored,
        "suspected": None if verdict.suspected is None else own.classes[verdict.suspected],
        "evidence": dict(zip(own.classes, verdict.per_class, strict=False)),
        "calibration": verdict.calibration,
        "report": dict(verdict.report),
    }
    print(json.dumps(found, indent=1, allow_nan=False) if arguments.json else _verdict_text(verdict, own, found))
    return 0


def _load(arguments: argparse.Namespace, also: Path | None = None) -> tuple[OwnModel, Recipe]:
    """Everything that can be known to be wrong before the work, in the order of what it costs to find out."""
    from mnp_plugin.api import checkpoint as own_model
    from mnp_plugin.contracts import Recipe
    from mnp_plugin.data.folder import class_names
    from mnp_plugin.training.device import pick_device

    if not 0 < arguments.validation < 1:
        raise UserError(f"--validation must be a share between 0 and 1, not {arguments.validation}")
    if not 0 <= arguments.seed < 2**63:
        raise UserError(f"--seed must be a whole number from 0 to 2^63 - 1, not {arguments.seed}")
    recipe = Recipe(crop=arguments.crop, flip=not arguments.no_flip)
    device = pick_device(arguments.device)
    if also is not None:
        own_model.check_images(also, class_names(arguments.data))
    own = own_model.load(
        checkpoint=arguments.checkpoint,
        net=arguments.net,
        net_settings=arguments.net_settings,
        data=arguments.data,
        size=arguments.size,
        normalise=arguments.normalise,
        device=device,
    )
    if len(own.images) < LEAST:
        raise UserError(f"{arguments.data} holds {len(own.images)} images; give at least {LEAST}, better some of every class")
    if recipe.crop >= own.images.x.shape[-1]:
        raise UserError(f"--crop {recipe.crop} must be smaller than the images ({own.images.x.shape[-1]} pixels)")
    return own, recipe


def _before_after(own: OwnModel, repaired: Any, images: Images, accuracy: Any) -> dict[str, Any]:
    return {"images": len(images), "before": accuracy(own.model, images), "after": accuracy(repaired, images)}


def _compact(model: Any, own: OwnModel, path: Path) -> dict[str, Any]:
    """Write the compact net and return what is said of it."""
    from mnp_plugin.io.atomic import write_atomic
    from mnp_plugin.neurons.compact import compact, export

    x = own.images[:64].pixels()
    made = compact(model, x)
    content, difference = export(made.model, x)
    write_atomic(path, content)
    return {
        "removed": made.removed,
        "silent channels that stay": made.kept,
        "parameters": {"before": made.parameters[0], "after": made.parameters[1]},
        "largest difference of logits": max(made.difference, difference),
        "speed": round(made.speed, 2),
        "measured on": f"{len(x)} images, {x.device.type}",
    }


def _write(weights: dict[str, Any], report: dict[str, Any], out: Path) -> None:
    from safetensors.torch import save

    from mnp_plugin.io.atomic import write_atomic
    from mnp_plugin.io.torch_writer import plain_weights, write_torch

    plain = plain_weights(weights)
    write_atomic(out / "repaired.safetensors", save(plain))
    write_torch(out / "repaired.pt", plain)
    write_atomic(out / "report.json", (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())


def _show(report: dict[str, Any]) -> None:
    layers = report["pruned by layer"]
    print(f"pruned {sum(layer['pruned'] for layer in layers)} neurons")
    if layers:
        print(f"  {'layer':24} pruned        magnitude  saliency   (medians, z-scores within the layer before the repair)")
    for layer in layers:
        count = f"{layer['pruned']:4} of {layer['of']}"
        print(f"  {layer['layer']:24} {count:13} {layer['magnitude']:+8.2f} {layer['saliency']:+9.2f}")
    for part, figures in report["clean accuracy"].items():
        line = f"{100 * figures['before']:.1f} -> {100 * figures['after']:.1f} % on {figures['images']} {part} images"
        print(f"clean accuracy {line}" + (f" ({figures['note']})" if "note" in figures else ""))
    if report["clean accuracy"]["validation"]["before"] < 0.5:
        print("the net was hardly right on --data before the repair: check --normalise, --size and the order of the classes")
    if "compact" in report:
        small = report["compact"]
        print(
            f"compact: {small['parameters']['before']} -> {small['parameters']['after']} parameters, {small['speed']} times as "
            f"fast, logits differ by at most {small['largest difference of logits']:.1e}; "
            f"{small['silent channels that stay']} silent channels stay"
        )


def _verdict_text(verdict: Verdict, own: OwnModel, found: dict[str, Any]) -> str:
    decision = {True: "BACKDOORED", False: "no backdoor found", None: "no decision"}[verdict.backdoored]
    limit = "" if verdict.threshold is None else f" (threshold {verdict.threshold:.3g})"
    lines = [f"{decision}: score {verdict.score:.3g}{limit}, suspected target: {found['suspected']}", "evidence by class:"]
    order = sorted(found["evidence"].items(), key=lambda item: -item[1])
    lines += [f"  {name:24} {value:8.3f}" for name, value in order]
    lines.append(f"calibrated on: {verdict.calibration or 'nothing; the score has no threshold'}")
    lines.append(f"clean accuracy {100 * found['clean accuracy']:.1f} % on {len(own.images)} images")
    if found["clean accuracy"] < 0.5:
        lines.append("the net is hardly right on --data: check --normalise, --size and the order of the classes")
    return "\n".join(lines)

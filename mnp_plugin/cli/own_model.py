"""``mnp-bench purify``, ``detect`` and ``screen``: repair or judge a checkpoint of one's own, or the images it meets."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnp_plugin.core.errors import MethodError, UserError
from mnp_plugin.report.repaired import repair_verdict

if TYPE_CHECKING:
    from mnp_plugin.api.judge import DetectReport
    from mnp_plugin.api.repair import RepairReport

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

PAUSE = 10.0
"""Least seconds between two lines about the same step."""
SHOWN = 8
"""Most channels of a layer, and most images, that are printed; the files hold all."""


def add(verbs: Verbs) -> None:
    """Register the verbs."""
    text = "repair a checkpoint with a few clean images: repaired weights, what was pruned, clean accuracy before and after"
    verb = verbs.add_parser("purify", help=text, description=text)
    _inputs(verb)
    verb.add_argument("--defense", default="mnp", help="a registered defense (default: mnp)")
    verb.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="its hyper-parameters")
    verb.add_argument("--test", type=Path, metavar="FOLDER", help="further clean <class>/<image>, for an independent accuracy")
    verb.add_argument(
        "--triggered",
        type=Path,
        metavar="FOLDER",
        help="images that carry the trigger, <true class>/<image> or all in one folder: how many still go to the target",
    )
    verb.add_argument("--out", type=Path, default=Path("purified"), help="folder to write to (default: purified)")
    verb.add_argument("--force", action="store_true", help="overwrite what --out holds")
    verb.add_argument("--compact", action="store_true", help="write compact.pt2 too: pruned channels really removed")
    verb.add_argument("--json", action="store_true", help="print the report as JSON, nothing else")
    verb.add_argument("--html", type=Path, metavar="FILE", help="write a page that explains the result to this file")
    verb.set_defaults(call=_purify)
    text = "judge from a few clean images whether a checkpoint is backdoored: score, evidence per class, suspected target"
    verb = verbs.add_parser("detect", help=text, description=text)
    _inputs(verb)
    verb.add_argument("--detector", default="mnp", help="a registered detector (default: mnp)")
    verb.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="its hyper-parameters")
    verb.add_argument(
        "--picture", type=Path, metavar="PNG", help="write the perturbation that was found, on clean images, to this file"
    )
    verb.add_argument("--json", action="store_true", help="print the verdict as JSON, nothing else")
    repair = verb.add_argument_group("repair where a backdoor is found")
    repair.add_argument("--repair", action="store_true", help="go on to purify if the verdict is yes")
    repair.add_argument("--defense", default="mnp", help="a registered defense (default: mnp)")
    repair.add_argument("--defense-settings", nargs="+", default=[], metavar="KEY=VALUE", help="its hyper-parameters")
    repair.add_argument("--out", type=Path, default=Path("purified"), help="folder to write to (default: purified)")
    repair.add_argument("--force", action="store_true", help="overwrite what --out holds")
    verb.add_argument(
        "--exit-code",
        action="store_true",
        help="exit with 1 if a backdoor is found, 3 if there is no decision (2: an error)",
    )
    verb.add_argument("--html", type=Path, metavar="FILE", help="write a page that explains the result to this file")
    verb.set_defaults(call=_detect)

    text = "score single images: which look triggered to your model, or poisoned in the set that it was trained on"
    verb = verbs.add_parser("screen", help=text, description=text)
    _inputs(verb)
    verb.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER", help="images in question, <class>/<image> or all in one folder"
    )
    verb.add_argument("--detector", default="strip", help="a registered sample detector (default: strip)")
    verb.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="its hyper-parameters")
    verb.add_argument("--out", type=Path, metavar="CSV", help="write file, score and flag of every image to this file")
    verb.add_argument("--json", action="store_true", help="print all as JSON, nothing else")
    verb.set_defaults(call=_screen)


def _inputs(verb: argparse.ArgumentParser) -> None:
    from_user = verb.add_argument_group("your model and clean images")
    from_user.add_argument("--checkpoint", type=Path, required=True, help="state dict: .safetensors, or a file of torch.save")
    from_user.add_argument("--net", required=True, help="a registered net (mnp-bench list), package.module:Class, or auto")
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
    from_user.add_argument("--anyway", action="store_true", help="go on although the net is hardly right on --data")
    from_user.add_argument("--quiet", action="store_true", help="say nothing of the progress")


def _purify(arguments: argparse.Namespace) -> int:
    from mnp_plugin.api.repair import repair_checkpoint

    done = repair_checkpoint(
        arguments.checkpoint,
        arguments.net,
        arguments.data,
        defense=arguments.defense,
        test=arguments.test,
        triggered=arguments.triggered,
        out=arguments.out,
        force=arguments.force,
        compact=arguments.compact,
        html=arguments.html,
        **_common(arguments),
    )
    if arguments.json:
        print(json.dumps(done.facts, indent=1, allow_nan=False))
    else:
        _show_repair(done, arguments.html)
    return _moved(done, arguments.out)


def _show_repair(done: RepairReport, html: Path | None = None) -> None:
    _show(done.facts)
    print(f"written to {done.out}: {', '.join(done.written)}")
    if html is not None:
        print(f"the page: {html}")


def _moved(done: RepairReport, wanted: Path) -> int:
    """Exit status: 1 if the repair had to be written elsewhere, which is said."""
    if done.out == wanted:
        return 0
    print(f"mnp-bench: {wanted} could not be written to; all is in {done.out}", file=sys.stderr)
    return 1


def _detect(arguments: argparse.Namespace) -> int:
    from mnp_plugin.api.judge import detect_checkpoint

    where = (arguments.checkpoint, arguments.net, arguments.data)
    judging = {"detector": arguments.detector, "picture": arguments.picture, "html": arguments.html, **_common(arguments)}
    status = 0
    try:
        if arguments.repair:
            from mnp_plugin.api.cure import detect_and_repair

            both = detect_and_repair(
                *where,
                defense=arguments.defense,
                defense_settings=arguments.defense_settings,
                out=arguments.out,
                force=arguments.force,
                **judging,
            )
            found, facts = both.found, both.facts
            status = 0 if both.repaired is None else _moved(both.repaired, arguments.out)
        else:
            both, found = None, detect_checkpoint(*where, **judging)
            facts = dict(found.facts)
    except MethodError as error:
        if arguments.exit_code:  # where 1 means a backdoor
            raise UserError(str(error)) from error
        raise
    if arguments.json:
        print(json.dumps(facts, indent=1, allow_nan=False))
    else:
        print(_verdict_text(found))
        if arguments.html:
            print(f"the page: {arguments.html}")
        if both is not None and both.repaired is None:
            print(NOT_REPAIRED[found.word])
        elif both is not None and both.repaired is not None:
            _show_repair(both.repaired)
    if not arguments.exit_code:
        return status
    return {"backdoored": 1, "no backdoor found": 0}.get(found.word, 3)


def _screen(arguments: argparse.Namespace) -> int:
    from mnp_plugin.api.screen import screen_checkpoint

    done = screen_checkpoint(
        arguments.checkpoint,
        arguments.net,
        arguments.data,
        arguments.images,
        detector=arguments.detector,
        out=arguments.out,
        **_common(arguments),
    )
    if arguments.json:
        print(json.dumps(done.facts, indent=1, allow_nan=False))
        return 0
    rows = done.facts["images"]
    print(f"{done.facts['flagged']} of {done.facts['judged']} images are flagged by {done.facts['detector']['name']}")
    for row in rows[:SHOWN]:
        print(f"  {row['score']:10.4f}  {'flagged' if row['flagged'] else '       '}  {row['file']}")
    if len(rows) > SHOWN:
        print(f"  and {len(rows) - SHOWN} more" + ("" if arguments.out else "; --out writes all"))
    if arguments.out:
        print(f"written to {arguments.out}")
    return 0


NOT_REPAIRED = {
    "no backdoor found": "nothing was repaired: no backdoor was found",
    "uncalibrated": "nothing was repaired: there is no decision; set 'threshold', or repair without one by mnp-bench purify",
    "undecided": "nothing was repaired: there is no decision",
}
"""What is said where ``--repair`` did not repair, by the word of the verdict."""


def _common(arguments: argparse.Namespace) -> dict[str, Any]:
    """What all verbs hand on."""
    from mnp_plugin.contracts import Recipe

    return {
        "settings": arguments.settings,
        "net_settings": arguments.net_settings,
        "size": arguments.size,
        "normalise": arguments.normalise,
        "anyway": arguments.anyway,
        "validation": arguments.validation,
        "recipe": Recipe(crop=arguments.crop, flip=not arguments.no_flip),
        "seed": arguments.seed,
        "device": arguments.device,
        "progress": None if arguments.quiet else _Lines(),
    }


class _Lines:
    """A line on stderr for every step, and one now and then about how far it is."""

    def __init__(self) -> None:
        self.step = ""
        self.last = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        step, now = what.partition(",")[0], time.monotonic()
        if step == self.step and now - self.last < PAUSE:
            return
        self.step, self.last = step, now
        print(f"... {what}" + (f" {done}/{total}" if total else ""), file=sys.stderr, flush=True)


def _show(report: Mapping[str, Any]) -> None:
    layers = report["pruned by layer"]
    print(f"pruned {sum(layer['pruned'] for layer in layers)} neurons")
    if layers:
        print(f"  {'layer':24} pruned        magnitude  saliency   (medians, z-scores within the layer before the repair)")
    for layer in layers:
        count = f"{layer['pruned']:4} of {layer['of']}"
        print(f"  {layer['layer']:24} {count:13} {layer['magnitude']:+8.2f} {layer['saliency']:+9.2f}")
        print(f"    channels {_some(layer['channels'])}")
    for part, figures in report["clean accuracy"].items():
        note = f" ({figures['note']})" if "note" in figures else ""
        print(f"clean accuracy {_change(figures)} on {figures['images']} {part} images{note}")
    if "triggered" in report:
        _show_trigger(report["triggered"])
    if "perturbation" in report:
        found = report["perturbation"]
        many = f"{found['images']} clean images"
        print(f"the detector's perturbation: {_change(found['sent there'])} of {many} go to '{found['class']}'")
    for key in ("hardly_right", "augmentation", "damage"):
        if key in report["repair"]:
            print(f"warning: {report['repair'][key]}")
    if "compact" in report:
        small = report["compact"]
        print(
            f"compact: {small['parameters']['before']} -> {small['parameters']['after']} parameters, {small['speed']} times as "
            f"fast, logits differ by at most {small['largest difference of logits']:.1e}; "
            f"{small['silent channels that stay']} silent channels stay"
        )
    said, _ = repair_verdict(report)
    if said:
        print(f"verdict: {said}")


def _show_trigger(found: Mapping[str, Any]) -> None:
    if found["target"] is None:
        print(f"triggered: {found['images']} images; {found['note']}")
        return
    print(f"triggered: {_change(found['sent to target'])} of {found['images']} images go to '{found['target']}'")
    if "right" in found:
        print(f"  classified as what they are: {_change(found['right'])}")


def _change(figures: Mapping[str, float]) -> str:
    return f"{100 * figures['before']:.1f} -> {100 * figures['after']:.1f} %"


def _some(channels: list[int]) -> str:
    more = f" and {len(channels) - SHOWN} more" if len(channels) > SHOWN else ""
    return ", ".join(str(channel) for channel in channels[:SHOWN]) + more


def _verdict_text(found: DetectReport) -> str:
    facts = found.facts
    word = found.word.upper() if found.word == "backdoored" else found.word
    accuracy = f"clean accuracy {100 * facts['clean accuracy']:.1f} % on {facts['clean images']} images"
    if found.verdict is None:
        return f"{word}: {found.reason}\n{accuracy}"
    limit = "" if facts["threshold"] is None else f" (threshold {facts['threshold']:.3g})"
    lines = [f"{word}: score {facts['score']:.3g}{limit}, suspected target: {facts['suspected']}", f"because: {found.reason}"]
    if facts["spread"] is not None:
        lines.append(f"scores of single draws: {facts['spread'][0]:.3g} to {facts['spread'][1]:.3g}")
    if facts["p-value"] is not None:
        lines.append(f"p-value by the detector's own null: {facts['p-value']:.3g}")
    if facts["evidence"]:
        lines.append("evidence by class:")
    lines += [f"  {name:24} {value:8.3f}" for name, value in sorted(facts["evidence"].items(), key=lambda item: -item[1])]
    if found.word != "uncalibrated":  # which the reason says
        lines.append(f"calibrated on: {facts['calibration'] or 'nothing; the score has no threshold'}")
    if facts["picture"]:
        lines.append(f"the perturbation that was found: {facts['picture']}")
    return "\n".join([*lines, accuracy])

"""Arguments of the bridge's scripts: BackdoorBench's own names, then the settings of the defense under theirs.

As in their scripts, a value given on the command line wins over the YAML file, which is a flat mapping of the same names.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnp_plugin.contracts import Defense, defenses
from mnp_plugin.core import params as spec
from mnp_plugin.core.errors import UserError, did_you_mean
from mnp_plugin.integrations.backdoorbench.scripts import GENERIC


def _truth(text: str) -> bool:
    return text in ("True", "true", "1")


THEIRS: dict[str, tuple[Any, str]] = {
    "result_file": (str, "name of the folder under record/"),
    "yaml_path": (str, "file of settings"),
    "dataset": (str, "cifar10, cifar100, gtsrb or tiny"),
    "dataset_path": (str, "ignored: the record says where its data are"),
    "device": (str, "cpu, cuda or cuda:N; without CUDA always cpu"),
    "model": (str, "architecture; must be the record's"),
    "ratio": (float, "share of the clean training set that the defense gets"),
    "index": (str, "file with the indices of the clean images, one per line; instead of ratio"),
    "random_seed": (int, "seed of every draw"),
    "batch_size": (int, "images per batch"),
    "num_workers": (int, "processes of the data loaders"),
    "amp": (_truth, "mixed precision where the hardware computes in bfloat16"),
    "pin_memory": (_truth, "pinned memory in the data loaders"),
    "non_blocking": (_truth, "asynchronous copies"),
    "prefetch": (_truth, "ignored: it fails in BackdoorBench itself"),
    "checkpoint_load": (str, "ignored"),
    "checkpoint_save": (str, "folder for checkpoints"),
    "log": (str, "folder for the log and index.txt"),
    "frequency_save": (int, "ignored: there are no epochs to save"),
    "epochs": (int, "ignored unless the defense has a setting of this name"),
    "lr": (float, "ignored unless the defense has a setting of this name"),
    "lr_scheduler": (str, "ignored"),
    "steplr_stepsize": (int, "ignored"),
    "steplr_gamma": (float, "ignored"),
    "steplr_milestones": (str, "ignored"),
    "client_optimizer": (str, "ignored"),
    "sgd_momentum": (float, "ignored"),
    "wd": (float, "ignored"),
}
SHORT = {"pin_memory": "-pm", "non_blocking": "-nb", "prefetch": "-pf"}
FALLBACK: dict[str, Any] = {
    "device": "cuda", "ratio": 0.05, "random_seed": 0, "num_workers": 0, "amp": False, "pin_memory": False,
    "non_blocking": False,
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What a script was asked for.

    Args:
        name: of the result folder and its files: the script's for ``mnp``, else ``mnp_plugin_<defense>``.
        method: the defense with its settings.
        values: BackdoorBench's arguments, the YAML file's where the command line gave none; None where neither did.
    """

    name: str
    method: Defense
    values: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        value = self.values.get(key)
        return FALLBACK.get(key) if value is None else value


def read_options(fixed: str | None, argv: Sequence[str]) -> Options:
    """Parse a command line and its YAML file; ``fixed`` is the script's defense, None for the generic script.

    Raises:
        UserError: unknown defense, unknown key, wrong type, value out of range.
    """
    script = fixed or GENERIC
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--defense")
    wanted = fixed or first.parse_known_args(argv)[0].defense
    if wanted is None and not {"-h", "--help"} & set(argv):
        raise UserError("which defense? add --defense NAME; mnp-bench list names them")
    cls = defenses.get(wanted or "none")
    parser = argparse.ArgumentParser(prog=f"defense/{script}.py", description=cls.__doc__, allow_abbrev=False)
    if fixed is None:
        parser.add_argument("--defense", help="name of a defense, see mnp-bench list")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name, (kind, text) in THEIRS.items():
        if name not in fields or name == "batch_size":
            flags = [SHORT[name]] if name in SHORT else []
            parser.add_argument(*flags, f"--{name}", type=kind, help=text)
    for name, field in fields.items():
        if name != "batch_size":
            parser.add_argument(f"--{name}", type=_scalar, help=f"{field.metadata.get('help', '')} ({field.default})")
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    given.pop("defense", None)
    path = Path(given.get("yaml_path", f"./config/defense/{script}/config.yaml"))
    values = {**_from_yaml(path, [*THEIRS, *fields]), **given}
    settings = {k: v for k, v in values.items() if k in fields and v is not None}
    method = spec.build(cls, spec.Document(settings, {}, f"settings of '{cls.name}'"), ())
    rest = {k: v for k, v in values.items() if k in THEIRS}
    for key in ("result_file", "dataset"):
        if not isinstance(rest.get(key), str):
            raise UserError(f"--{key} is missing: {THEIRS[key][1]}")
    for key, value in rest.items():
        kinds: tuple[type, ...] = {_truth: (bool,), float: (int, float)}.get(THEIRS[key][0], (THEIRS[key][0],))
        if value is not None and "ignored" not in THEIRS[key][1] and type(value) not in kinds:
            raise UserError(f"{key} must be {' or '.join(k.__name__ for k in kinds)}, not {value!r}")
    if rest.get("ratio") is not None and not 0 < rest["ratio"] <= 1:
        raise UserError(f"ratio must be above 0 and at most 1, not {rest['ratio']}")
    for key, least in (("batch_size", 1), ("num_workers", 0)):
        if rest.get(key) is not None and rest[key] < least:
            raise UserError(f"{key} must be at least {least}, not {rest[key]}")
    return Options(cls.name if fixed else f"mnp_plugin_{cls.name}", method, rest)


def _from_yaml(path: Path, known: Sequence[str]) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"no file {path}; --yaml_path names the settings, for example ./config/defense/mnp/cifar10.yaml")
    document = spec.parse_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if not isinstance(document.data, dict):
        raise document.error((), "must be a mapping of settings")
    for key in document.data:
        if key not in known:
            raise document.error((key,), f"unknown key '{key}'.{did_you_mean(key, known)}")
    return dict(document.data)


def _scalar(text: str) -> Any:
    """A number, a truth value, a list of them (with commas), or the text itself."""
    if "," in text:
        return [_scalar(part.strip()) for part in text.split(",") if part.strip()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "null": None, "none": None}.get(text.lower(), text)

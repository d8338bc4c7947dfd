"""Reads a ``record/<name>/`` folder of BackdoorBench without unpickling anything and without leaving the folder.

The format was established on BackdoorBench at commit f02e353: ``attack_result.pt`` holds eight keys, poisoned pictures are
PNG files beside it, and clean images stay where the data set is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mnp_plugin.contracts import Images, Triggered
from mnp_plugin.core.errors import UserError
from mnp_plugin.integrations.backdoorbench.names import DataFacts, data_facts, net_builder
from mnp_plugin.io.images import read_rgb
from mnp_plugin.io.refusal import RefusedError
from mnp_plugin.io.safe import inside, read_plain, weights_into
from mnp_plugin.io.weights import bare_names
from mnp_plugin.nets import normalise_inside

FILE = "attack_result.pt"
KEYS = ("model_name", "num_classes", "model", "data_path", "img_size", "clean_data", "bd_train", "bd_test")


@dataclass(frozen=True)
class Poisoned:
    """One poisoned picture: its index in the clean set, file relative to the record, the attacker's label and the true one."""

    index: int
    file: str
    label: int
    true_label: int


@dataclass(frozen=True, eq=False, kw_only=True)
class BackdoorBenchRecord:
    """A record, checked but for its pictures.

    Args:
        folder: where it lies, with every link resolved.
        net: their name of the architecture.
        data: their name of the clean data set.
        weights: state dict, float tensors on the CPU, keys without ``module.``.
        test: the triggered test set, in their order.
        poison_ratio: share of the training set that is poisoned; None where the record does not say (LIRA, Blind).
    """

    folder: Path
    net: str
    data: str
    data_path: str
    weights: dict[str, Tensor]
    test: tuple[Poisoned, ...]
    poison_ratio: float | None

    @property
    def facts(self) -> DataFacts:
        """Classes, shape and statistics of the data set."""
        return data_facts(self.data)

    @property
    def target_rule(self) -> str:
        """``all2one to T``, ``all2all`` (y to y + 1), or ``other``, as the labels of the triggered test set show."""
        labels = {p.label for p in self.test}
        if len(labels) == 1:
            return f"all2one to {labels.pop()}"
        shifted = all(p.label == (p.true_label + 1) % self.facts.classes for p in self.test)
        return "all2all" if shifted else "other"

    def digest(self) -> str:
        """SHA-256 over the weights' file and every triggered picture: what the numbers of this victim depend on."""
        total = hashlib.sha256((self.folder / FILE).read_bytes())
        for poisoned in self.test:
            picture = inside(self.folder, poisoned.file)
            total.update(picture.read_bytes() if picture.is_file() else b"")  # what is missing is named when it is loaded
        return total.hexdigest()

    def fresh_net(self) -> nn.Module:
        """The architecture, untrained, taking pixels in [0, 1]."""
        facts = self.facts
        return normalise_inside(net_builder(self.net, facts.classes, facts.shape)(), facts.mean, facts.std)

    def model(self) -> nn.Module:
        """The victim, in eval mode, taking pixels in [0, 1].

        Raises:
            UserError: the weights are of another net.
        """
        net = self.fresh_net()
        weights_into(net, _renamed(self.weights, net), str(self.folder / FILE))
        return net.eval()

    def data_folder(self) -> Path:
        """Where their rule looks for the clean data: beside ``record/``, whatever the folder was called before."""
        return data_folder(self.folder, self.data_path)

    def triggered(self, test: Images) -> Triggered:
        """The triggered test set, float32 in [0, 1] of 8-bit pictures.

        Args:
            test: the clean test set that the record's indices count in.

        Raises:
            UserError: a picture is missing, does not decode, or the true labels are not those of ``test``.
        """
        index = torch.tensor([p.index for p in self.test])
        y_true = torch.tensor([p.true_label for p in self.test])
        if int(index.max()) >= len(test) or not torch.equal(test.y[index], y_true):
            raise UserError(
                f"{self.folder}: its true labels are not those of the clean test set of {len(test)} images; "
                f"the data in {self.data_folder()} are not the ones it was made from"
            )
        _, height, width = self.facts.shape
        pictures = [decode(inside(self.folder, p.file), height, width) for p in self.test]
        x = torch.from_numpy(np.stack(pictures)).float() / 255
        return Triggered(x, y_true, torch.tensor([p.label for p in self.test]), index)


def read_record(folder: Path) -> BackdoorBenchRecord:
    """Read and check ``folder/attack_result.pt``.

    Raises:
        UserError: missing or malicious file, missing key, unknown net or data set, path out of the record, label out of range.
    """
    folder = folder.resolve()
    path = inside(folder, FILE)
    if not path.is_file():
        raise UserError(f"no {folder / FILE}; a record of BackdoorBench is a folder that holds one")
    raw = read_plain(path)
    if not isinstance(raw, Mapping) or any(key not in raw for key in KEYS):
        absent = [k for k in KEYS if not isinstance(raw, Mapping) or k not in raw]
        raise UserError(f"{path}: no attack result of BackdoorBench: it has no {', '.join(absent)}")
    for key in ("model_name", "clean_data", "data_path"):
        if not isinstance(raw[key], str):
            raise UserError(f"{path}: {key} must be text, not {type(raw[key]).__name__}")
    facts = data_facts(raw["clean_data"])
    c, h, w = facts.shape
    try:
        alike = int(raw["num_classes"]) == facts.classes and tuple(map(int, raw["img_size"])) == (h, w, c)
    except (TypeError, ValueError, ArithmeticError, RuntimeError):  # whatever else stands there
        alike = False
    if not alike:
        raise UserError(
            f"{path}: {raw['clean_data']} has {facts.classes} classes and images of {(h, w, c)}, "
            f"the record says {raw['num_classes']} and {raw['img_size']}"
        )
    net_builder(raw["model_name"], facts.classes, facts.shape)
    data_folder(folder, raw["data_path"])
    return BackdoorBenchRecord(
        folder=folder,
        net=raw["model_name"],
        data=raw["clean_data"],
        data_path=raw["data_path"],
        weights=_weights(raw["model"], path),
        test=poisoned_samples(folder, raw["bd_test"], facts.classes, f"{path}: bd_test"),
        poison_ratio=_ratio(raw["bd_train"], path),
    )


def data_folder(record: Path, data_path: str) -> Path:
    """``data_path`` from its first "data" on, below the folder that holds ``record/``.

    Raises:
        UserError: the path leads elsewhere.
    """
    start = data_path.find("data")
    tail = PurePosixPath(data_path[start:].replace("\\", "/"))
    if start < 0 or ".." in tail.parts or "\0" in data_path:
        raise UserError(f"{record / FILE}: data_path {data_path!r} is refused: it must name a folder under data/, without '..'")
    resolved = record.resolve()
    above = [p.parent for p in (resolved, *resolved.parents) if p.name == "record"]
    return (above[-1] if above else resolved.parent) / tail


def poisoned_samples(folder: Path, state: Any, classes: int, source: str) -> tuple[Poisoned, ...]:
    """The poisoned samples of a stored data set, in its order; every file lies in ``folder``.

    Raises:
        UserError: the state has another form, a label or index out of range, or a path out of the folder.
    """
    try:
        container = state["bd_data_container"]
        items, place = container["data_dict"], container["save_folder_path"]
        order = [int(i) for i in np.asarray(state["original_index_array"]).reshape(-1)]
        indicator = np.asarray(state["poison_indicator"]).reshape(-1)
        if place is None:
            raise UserError(f"{source}: its pictures are inside the file, as objects that are never unpickled; save them as PNG")
        known = {int(key): value for key, value in items.items()}
        found = []
        for i in order:
            if not 0 <= i < len(indicator):
                raise UserError(f"{source}: index {i} is outside the data set of {len(indicator)} images")
            if indicator[i] == 1:
                label, true_label = (int(v) for v in known[i]["other_info"])
                file = relative_picture(str(known[i]["path"]), str(place), source)
                found.append(Poisoned(i, file, label, true_label))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{source}: not the form BackdoorBench writes ({type(error).__name__}: {error})") from None
    if not found:
        raise UserError(f"{source}: it holds no poisoned image")
    if not all(0 <= p.label < classes and 0 <= p.true_label < classes for p in found):
        raise UserError(f"{source}: labels must lie in 0..{classes - 1}")
    for poisoned in found:
        inside(folder, poisoned.file)
    return tuple(found)


def relative_picture(stored: str, place: str, source: str) -> str:
    """A stored picture's path relative to its record, wherever the record was made.

    Raises:
        UserError: the path is not below the folder of its data set.
    """
    name = PurePosixPath(place.replace("\\", "/")).name
    parts = PurePosixPath(stored.replace("\\", "/")).parts
    if name not in parts or ".." in parts or "\0" in stored:
        raise UserError(f"{source}: the picture {stored!r} is refused: it must lie under {name}/ of its record, without '..'")
    return str(PurePosixPath(*parts[len(parts) - 1 - parts[::-1].index(name) :]))


def decode(path: Path, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture as uint8 [3, H, W]; other sizes are resized as their transform does (bilinear).

    Raises:
        UserError: missing, or no PNG that decodes.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; copy the record with its pictures")
    rgb = read_rgb(path, ("PNG",))
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(rgb, dtype=np.uint8).transpose(2, 0, 1)


def _weights(state: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: 'model' must map names to tensors")
    try:
        return bare_names({str(key): value for key, value in state.items()})
    except RefusedError as error:
        raise UserError(f"{path}: {error}") from None


def _renamed(weights: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """As their loader does: where only the names differ, entries are taken in order."""
    wanted = net.state_dict()
    same_shapes = [v.shape for v in weights.values()] == [v.shape for v in wanted.values()]
    if weights.keys() != wanted.keys() and same_shapes:
        return dict(zip(wanted, weights.values(), strict=True))
    return weights


def _ratio(state: Any, path: Path) -> float | None:
    if state is None:
        return None
    try:
        indicator = np.asarray(state["poison_indicator"], dtype=np.float64).reshape(-1)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: bd_train has not the form BackdoorBench writes") from None
    return float((indicator == 1).mean()) if len(indicator) else None

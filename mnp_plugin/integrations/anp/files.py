"""The files of ANP's released recipe, to the byte; RNP's have the same format.

Source: Wu, Wang, Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021, arXiv 2110.14430, and its code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnp_plugin.core.errors import UserError
from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.io.safe import read_plain
from mnp_plugin.io.torch_writer import write_torch

MASK_HEADER = "No \t Layer Name \t Neuron Idx \t Mask Score \n"
PRUNING_HEADER = "No \t Layer Name \t Neuron Idx \t Mask \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC\n"
LIMIT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class MaskRow:
    """One neuron: module path of its batch normalisation, channel, and mask in [0, 1]."""

    layer: str
    index: int
    score: float


@dataclass(frozen=True)
class PruningRow:
    """The net after one step of pruning; accuracies are fractions.

    Args:
        pruned: neurons pruned so far.
        layer: by threshold the first neuron that was spared, by number the last that was pruned.
        index: its channel.
        mask: the threshold, or that neuron's mask.
        poison_loss: mean cross entropy towards the attacker's label on triggered images.
        poison_acc: ASR.
        clean_loss: mean cross entropy on clean images.
        clean_acc: ACC.
    """

    pruned: int
    layer: str
    index: int
    mask: float
    poison_loss: float
    poison_acc: float
    clean_loss: float
    clean_acc: float

    def text(self, by: str) -> str:
        """The row as the recipe prints it, without the end of the line."""
        start = f"{self.pruned:.2f}" if by == "threshold" else f"{self.pruned}"
        scores = " \t ".join(f"{v:.4f}" for v in (self.poison_loss, self.poison_acc, self.clean_loss, self.clean_acc))
        return f"{start} \t {self.layer} \t {self.index} \t {self.mask} \t {scores}"


def write_masks(path: Path, rows: Sequence[MaskRow]) -> None:
    """Write ``mask_values.txt``: masks with four decimals, in the order of ``rows``."""
    lines = [f"{count} \t {row.layer} \t {row.index} \t {row.score:.4f} \n" for count, row in enumerate(rows)]
    write_atomic(path, (MASK_HEADER + "".join(lines)).encode())


def read_masks(path: Path) -> list[MaskRow]:
    """Read ``mask_values.txt`` of ANP, RNP or ours, in the order of the file.

    Raises:
        UserError: no such file, or a line that is no neuron; the message names the line.
    """
    rows = []
    for number, line in enumerate(_text(path).splitlines()[1:], 2):
        if not line.strip():
            continue
        parts = line.split()
        score = _float(parts[3]) if len(parts) == 4 and parts[0].isdecimal() and _index(parts[2]) else math.nan
        if not 0 <= score <= 1:
            raise UserError(
                f"{path}, line {number}: expected number, layer, channel and a mask in [0, 1], not {line.strip()[:80]!r}"
            )
        rows.append(MaskRow(parts[1], int(parts[2]), score))
    if not rows:
        raise UserError(f"{path} holds no mask; it should be a mask_values.txt, a heading and then one line for each neuron")
    return rows


def write_pruning(path: Path, rows: Sequence[PruningRow], by: str, *, newlines: bool = False) -> None:
    """Write ``pruning_by_threshold.txt`` or ``pruning_by_number.txt``.

    Args:
        path: the file.
        rows: in the order of pruning.
        by: ``threshold`` or ``number``.
        newlines: end the lines of ``number`` too; as published that file is one long line after the heading.
    """
    end = "\n" if by == "threshold" or newlines else ""
    write_atomic(path, (PRUNING_HEADER + "".join(row.text(by) + end for row in rows)).encode())


_NUMBER = r"(-?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|-?inf|nan)"
_SCORE = r"(-?[0-9]+\.[0-9]{4}|-?inf|nan)"
_COUNT = r"([0-9]{1,18})"  # so many fit into 64 bits; of more than 4300 Python makes no int
_ROW = re.compile(rf"{_COUNT}(?:\.00)?\s+(\S+)\s+{_COUNT}\s+{_NUMBER}\s+{_SCORE}\s+{_SCORE}\s+{_SCORE}\s+{_SCORE}\s*")


def read_pruning(path: Path) -> list[PruningRow]:
    """Read either pruning file, with or without line ends: the four decimals of CleanACC tell where a row ends.

    Raises:
        UserError: no such file, or text that is no row.
    """
    body = _text(path).partition("\n")[2]
    rows: list[PruningRow] = []
    place = 0
    while place < len(body):
        match = _ROW.match(body, place)
        if match is None:
            raise UserError(
                f"{path}: after {len(rows)} rows comes {body[place : place + 60]!r}, which is no row of a pruning file"
            )
        pruned, layer, index, *numbers = match.groups()
        rows.append(PruningRow(int(pruned), layer, int(index), *(float(n) for n in numbers)))
        place = match.end()
    if not rows:
        raise UserError(f"{path} holds no row; it should be a pruning_by_threshold.txt or pruning_by_number.txt")
    return rows


def _text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if path.stat().st_size > LIMIT_BYTES:
        raise UserError(f"{path} has more than {LIMIT_BYTES} bytes, far more than such a file needs")
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file") from None
    if not content.startswith("No"):
        raise UserError(f"{path} does not begin with the heading 'No \\t Layer Name ...' of ANP's files")
    return content


def _index(word: str) -> bool:
    return word.isdecimal() and len(word) <= 18


def _float(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


@dataclass(frozen=True, eq=False, kw_only=True)
class TriggerInfo:
    """What ``trigger_info.th`` says: x' = (1 - mask) x + mask ((1 - alpha) x + alpha pattern), sent to ``target``.

    Args:
        pattern: uint8 [1, H, W, 1 or C].
        mask: uint8 [1, H, W, 1], 0 or 1.
        alpha: opacity in [0, 1].
        target: class that triggered images are sent to.
        data_index: int64, which training images were poisoned (positions in the attacker's part); None if not recorded.
    """

    pattern: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    alpha: float
    target: int
    data_index: npt.NDArray[np.int64] | None = None


def write_trigger(path: Path, trigger: TriggerInfo) -> None:
    """Write ``trigger_info.th`` with NumPy arrays, as the recipe's scripts read it."""
    content: dict[str, Any] = {
        "trigger_pattern": trigger.pattern,
        "trigger_mask": trigger.mask,
        "trigger_alpha": trigger.alpha,
        "poison_target": np.array([trigger.target]),
    }
    if trigger.data_index is not None:
        content["data_index"] = trigger.data_index
    write_torch(path, content)


def read_trigger(path: Path) -> TriggerInfo:
    """Read ``trigger_info.th``, theirs or ours, without unpickling.

    Raises:
        UserError: not such a file, or shapes, types or ranges that make no trigger.
    """
    found = read_plain(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} is no trigger_info.th: it holds a {type(found).__name__}, not a dictionary")
    pattern, mask, alpha, target = (found.get(f) for f in ("trigger_pattern", "trigger_mask", "trigger_alpha", "poison_target"))
    for what, value, channels in (("trigger_pattern", pattern, (1, 3)), ("trigger_mask", mask, (1,))):
        if not (isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 4 and value.shape[0] == 1):
            raise UserError(f"{path}: {what} must be a uint8 array [1, H, W, C]")
        if value.shape[3] not in channels:
            raise UserError(f"{path}: {what} has {value.shape[3]} channels; expected {' or '.join(map(str, channels))}")
    assert isinstance(pattern, np.ndarray)
    assert isinstance(mask, np.ndarray)
    if pattern.shape[1:3] != mask.shape[1:3] or mask.max(initial=0) > 1:
        raise UserError(f"{path}: trigger_mask must be 0 or 1 at each pixel of trigger_pattern")
    if not isinstance(alpha, float | int | np.number) or not 0 <= float(alpha) <= 1:
        raise UserError(f"{path}: trigger_alpha must be a number in [0, 1]")
    classes = np.asarray(target).reshape(-1) if isinstance(target, np.ndarray | np.integer | int) else np.empty(0)
    if classes.size != 1 or classes.dtype.kind not in "iu" or int(classes[0]) < 0:
        raise UserError(f"{path}: poison_target must hold one class index")
    index = found.get("data_index")
    if index is not None and not (isinstance(index, np.ndarray) and index.ndim == 1 and index.dtype.kind in "iu"):
        raise UserError(f"{path}: data_index must be a list of positions")
    return TriggerInfo(
        pattern=pattern,
        mask=mask,
        alpha=float(alpha),
        target=int(classes[0]),
        data_index=None if index is None else index.astype(np.int64),
    )

"""Data and triggers of ANP's recipe: the 32-pixel images, whose part is whose, and the published stamps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mnp_plugin.attacks.badnets import BadNets
from mnp_plugin.attacks.blended import Blended
from mnp_plugin.attacks.lc import LabelConsistent
from mnp_plugin.contracts import Attack, AttackContext, ImageData, Images, Net, Recipe, to_bytes
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.folder import ImageFolder
from mnp_plugin.data.torchvision_sets import Cifar10
from mnp_plugin.integrations.anp.files import TriggerInfo, read_trigger
from mnp_plugin.io.safe import read_tensors, weights_into
from mnp_plugin.nets import normalise_inside
from mnp_plugin.nets.resnet import ResNet18

SIZE = 32
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
ARCHS: dict[str, Net] = {"resnet18": ResNet18()}
"""Those of their nets that have the same parameter names here."""
SHUFFLE_SEED = 2021


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the last two steps measure with: images, batches, device, and the trigger if one is known.

    Args:
        data: the data set.
        trigger: stamped on the test images; None measures them clean twice, as the recipe does.
        batch_size: images per batch; losses are means of batch means, as the recipe takes them.
        device: where to compute.
    """

    data: ImageData
    trigger: TriggerInfo | None
    batch_size: int
    device: torch.device

    def scores(self, model: nn.Module) -> tuple[float, float, float, float]:
        """(PoisonLoss, PoisonACC, CleanLoss, CleanACC); accuracies are fractions, triggered images are of other classes."""
        test = self.data.test
        clean = loss_and_accuracy(model, test, self.batch_size, self.device)
        if self.trigger is None:
            return (*clean, *clean)
        part = test[test.y != self.trigger.target]
        bad = Images(stamp(part.x, self.trigger), torch.full_like(part.y, self.trigger.target))
        return (*loss_and_accuracy(model, bad, self.batch_size, self.device), *clean)


@torch.no_grad()
def loss_and_accuracy(model: nn.Module, images: Images, batch_size: int, device: torch.device) -> tuple[float, float]:
    """Mean over batches of the mean cross entropy, and accuracy as a fraction; eval mode."""
    model.eval()
    losses, right = [], 0
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size].to(device)
        out = model(part.pixels()).float()
        losses.append(float(nn.functional.cross_entropy(out, part.y)))
        right += int((out.argmax(1) == part.y).sum())
    return math.fsum(losses) / len(losses), right / len(images)


def load_data(folder: Path, cache: Path) -> ImageData:
    """CIFAR-10 in ``folder`` (downloaded there if missing), or a tree ``train/<class>/``, ``test/<class>/`` of any pictures.

    Raises:
        UserError: no such folder, or the data are not there and cannot be downloaded.
    """
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder}; give --data-dir a folder for CIFAR-10, or one with train/<class>/ and test/<class>/"
        )
    if (folder / "train").is_dir():
        second = "test" if (folder / "test").is_dir() else "val"
        return ImageFolder(root=str(folder), size=SIZE, test=second).load(cache)
    return Cifar10(root=str(folder)).load(cache)


def shuffled(count: int, file: Path | None = None) -> Tensor:
    """The fixed permutation whose head is the defender's; int64 [count].

    Args:
        count: number of training images.
        file: whole numbers as in the recipe's ``cifar_shuffle.txt``; None draws with a fixed seed.

    Raises:
        UserError: the file is no permutation of 0 .. count - 1.
    """
    if file is None:
        return torch.randperm(count, generator=torch.Generator().manual_seed(SHUFFLE_SEED))
    try:
        numbers = [int(word) for word in file.read_text(encoding="ascii").split()]
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as a list of whole numbers: {error}") from None
    if sorted(numbers) != list(range(count)):
        raise UserError(f"{file} is no permutation of 0 to {count - 1}, one number for each training image")
    return torch.tensor(numbers)


def divide(train: Images, share: float, order: Tensor) -> tuple[Images, Images]:
    """(the attacker's part, the defender's): the defender has the first int(share * N) of ``order``."""
    if not 0 < share < 1:
        raise UserError(f"--val-frac must lie between 0 and 1, not {share}")
    held = int(share * len(train))
    if held < 2:
        raise UserError(f"--val-frac {share} of {len(train)} training images is {held}; at least 2 are needed")
    return train[order[held:]], train[order[:held]]


def build(arch: str, classes: int) -> nn.Module:
    """An untrained net of the recipe that takes pixels in [0, 1]; it normalises with ANP's constants."""
    if arch not in ARCHS:
        raise UserError(f"--arch {arch} is not provided here; known: {', '.join(ARCHS)}")
    return normalise_inside(ARCHS[arch].build(classes, (3, SIZE, SIZE)), MEAN, STD)


def load_net(arch: str, classes: int, checkpoint: Path) -> nn.Module:
    """The net of a checkpoint, theirs or ours, in eval mode.

    Raises:
        UserError: no such net or file, or weights of another net.
    """
    net = build(arch, classes)
    weights_into(net, read_tensors(checkpoint), checkpoint)
    return net.eval()


def published_trigger(poison_type: str, target: int, alpha: float, data_index: Tensor | None = None) -> TriggerInfo | None:
    """The recipe's triggers; None for ``benign``.

    ``badnets`` is the 3x3 grid in the bottom-right corner, ``clean-label`` the same mirrored into all four corners, ``blend``
    one uniform noise image (theirs is a file; ours is drawn with a fixed seed).
    """
    if poison_type == "benign":
        return None
    if not 0 < alpha <= 1:
        raise UserError(f"--trigger-alpha must lie above 0 and up to 1, not {alpha}")
    grid = _stamped(BadNets(size=3), 0.0)
    if poison_type == "blend":
        generator = torch.Generator().manual_seed(SHUFFLE_SEED)
        tools = AttackContext(device=torch.device("cpu"), generator=generator, recipe=Recipe(), fresh_net=nn.Identity)
        blank = Images(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
        pattern = to_bytes(Blended().prepare(blank, tools)["pattern"]).permute(1, 2, 0)
        mask = torch.ones(SIZE, SIZE, dtype=torch.uint8)
    else:
        mask = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
        mask[-3:, -3:] = 1
        pattern = torch.where(mask == 1, grid, torch.tensor(122, dtype=torch.uint8))
        if poison_type == "clean-label":
            pattern, on_white = (_stamped(LabelConsistent(size=3), pixel) for pixel in (0.0, 1.0))
            mask = (pattern == on_white).to(torch.uint8)
        pattern = pattern.unsqueeze(2)
    return TriggerInfo(
        pattern=pattern.unsqueeze(0).numpy(),
        mask=mask.view(1, SIZE, SIZE, 1).numpy(),
        alpha=alpha,
        target=target,
        data_index=None if data_index is None else data_index.numpy(),
    )


def _stamped(attack: Attack, pixel: float) -> Tensor:
    """What a patch attack makes of an image whose pixels are all alike, uint8 [H, W]."""
    return to_bytes(attack.apply(torch.full((1, 1, SIZE, SIZE), pixel), {})[0, 0])


def chosen_trigger(file: Path | None, poison_type: str, target: int, alpha: float, data: ImageData) -> TriggerInfo | None:
    """The trigger of ``file`` if there is one, else the published one of that type.

    Raises:
        UserError: it does not fit the images or classes.
    """
    trigger = read_trigger(file) if file is not None else published_trigger(poison_type, target, alpha)
    if trigger is not None:
        source = file if file is not None else "--poison-target"
        if trigger.target >= len(data.classes):
            raise UserError(f"{source}: target {trigger.target} is outside the classes 0..{len(data.classes) - 1}")
        if trigger.mask.shape[1:3] != data.shape[1:]:
            raise UserError(
                f"{source}: the trigger has {list(trigger.mask.shape[1:3])} pixels, the images {list(data.shape[1:])}"
            )
        if not bool((data.test.y != trigger.target).any()):
            raise UserError(f"{source}: every test image belongs to the target class, so PoisonACC cannot be measured")
    return trigger


def stamp(x: Tensor, trigger: TriggerInfo) -> Tensor:
    """Stamped copies of uint8 [N, C, H, W]; fractions are cut off, as NumPy's conversion to bytes in the recipe does."""
    pattern, mask = (
        torch.from_numpy(np.ascontiguousarray(a)).permute(0, 3, 1, 2).to(x.device) for a in (trigger.pattern, trigger.mask)
    )
    parts = []
    for part in x.split(4096):  # type: ignore[no-untyped-call]
        mixed = (1 - trigger.alpha) * part.double() + trigger.alpha * pattern.double()
        parts.append(torch.where(mask == 1, mixed, part.double()).clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)

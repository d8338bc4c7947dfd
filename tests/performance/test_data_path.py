"""One epoch of training: tensors on the device against a DataLoader with PIL transforms, side by side in one run.

Read the ratio of the two rows, not their times: `make bench`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mnp_plugin.contracts import ImageData, Recipe
from mnp_plugin.data.digits import Digits
from mnp_plugin.nets import build_net
from mnp_plugin.nets.small import SmallNet
from mnp_plugin.training.device import in_layout_of, place
from mnp_plugin.training.loop import fit

RECIPE = Recipe(epochs=1, batch_size=128, crop=2, flip=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return Digits(size=32).load(tmp_path_factory.mktemp("cache"))


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """The customary way: PIL images, transformed one by one."""

    def __init__(self, data: ImageData) -> None:
        to_pil = transforms.ToPILImage()
        self.images = [(to_pil(x), int(y)) for x, y in zip(data.train.x, data.train.y, strict=True)]
        self.change = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=2, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.images[index]
        return self.change(image), label


@pytest.mark.benchmark(group="one epoch of a tiny net, 1438 images")
def test_tensors_on_the_device(benchmark: Any, data: ImageData) -> None:
    model = build_net(SmallNet(width=4), data)
    benchmark(lambda: fit(model, data.train, RECIPE, torch.Generator().manual_seed(0)))


@pytest.mark.benchmark(group="one epoch of a tiny net, 1438 images")
def test_data_loader_and_pil(benchmark: Any, data: ImageData) -> None:
    model = place(build_net(SmallNet(width=4), data), torch.device("cpu"))
    loader = DataLoader(Pictures(data), batch_size=128, shuffle=True, drop_last=True)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def epoch() -> None:
        for x, y in loader:
            loss = F.cross_entropy(model(in_layout_of(model, x)), y)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    benchmark(epoch)

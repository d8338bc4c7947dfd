"""The modules of ResNet-18 and PreActResNet-18."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = (2, 2, 2, 2)


def _conv3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut, then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3(outputs, outputs, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        summed: Tensor = self.bn2(self.conv2(out)) + self.shortcut(x)
        return F.relu(summed)


class PreActBlock(nn.Module):
    """BN-ReLU-conv twice plus shortcut; the projection has no BN and takes the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3(outputs, outputs, 1)
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        skipped: Tensor = self.shortcut(active) if self.projects else x
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active)))) + skipped
        return out


def _stages(block: type[BasicBlock] | type[PreActBlock], width: int) -> list[nn.Sequential]:
    stages, inputs = [], width
    for stage, count in enumerate(BLOCKS):
        outputs = width * 2**stage
        blocks: list[nn.Module] = []
        for i in range(count):
            blocks.append(block(inputs, outputs, 2 if stage > 0 and i == 0 else 1))
            inputs = outputs
        stages.append(nn.Sequential(*blocks))
    return stages


class ResNetModule(nn.Module):
    """Stem of one 3x3 convolution, four stages, adaptive average pool, head named ``linear``."""

    def __init__(self, num_classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = _conv3(channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3, self.layer4 = _stages(BasicBlock, width)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.relu(self.bn1(self.conv1(x))))

    def classify(self, x: Tensor) -> Tensor:
        """Logits of what the stem gives."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        out: Tensor = self.linear(self.avgpool(x).flatten(1))
        return out


class Stem7ResNetModule(ResNetModule):
    """The stem of the paper before the same stages: one 7x7 convolution of stride 2, then max pooling of stride 2."""

    def __init__(self, num_classes: int, channels: int, width: int) -> None:
        super().__init__(num_classes, channels, width)
        self.conv1 = nn.Conv2d(channels, width, 7, 2, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        return self.classify(x)


class PreActResNetModule(nn.Module):
    """As BackdoorBench builds it: no BN after the stem and none before the pool; 16 BN layers, 3 392 channels at width 64."""

    def __init__(self, num_classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = _conv3(channels, width, 1)
        self.layer1, self.layer2, self.layer3, self.layer4 = _stages(PreActBlock, width)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        out: Tensor = self.linear(self.avgpool(x).flatten(1))
        return out

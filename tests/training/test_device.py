"""Memory layout: fast where it is right, and never the one that corrupts memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from mnp_plugin.evaluation.predict import logits
from mnp_plugin.nets.resnet import ResNet18
from mnp_plugin.training.device import at_once, in_layout_of, layout_of, place

CPU = torch.device("cpu")

NARROW = """
import torch
from torch import nn
from mnp_plugin.training.device import in_layout_of, place
for width in (2, 4, 7, 8):
    print(width, flush=True)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 8, 1, stride=2), nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(1, 3, 32, 32))
    x = torch.rand(16, 3, 32, 32)
    net(x).sum().backward()
    plain = [p.grad.clone() for p in net.parameters()]
    place(net, torch.device("cpu"))
    for _ in range(40):
        net.zero_grad()
        net(in_layout_of(net, x)).sum().backward()
    for a, p in zip(plain, net.parameters()):
        torch.testing.assert_close(p.grad, a, rtol=1e-3, atol=1e-2)
"""


def test_narrow_strided_convolutions_train_without_avx512() -> None:
    """In channels_last their backward pass writes out of bounds there (torch 2.15): the process would abort."""
    environment = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", NARROW], env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, f"widths begun: {done.stdout.split()}\n{done.stderr[-2000:]}"


class Views(nn.Module):
    """Flattens as many tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).view(len(x), -1))


def test_layout_follows_what_the_net_can_take() -> None:
    x = torch.rand(2, 3, 8, 8)
    wide = place(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 1, stride=2)), CPU)
    assert layout_of(wide) is torch.channels_last
    assert in_layout_of(wide, x).is_contiguous(memory_format=torch.channels_last)
    narrow = place(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 1, stride=2)), CPU)
    assert layout_of(narrow) is torch.contiguous_format
    views = place(Views().train(), CPU, example=x)
    assert layout_of(views) is torch.contiguous_format
    assert views.training
    assert views(in_layout_of(views, x)).shape == (2, 2)


@pytest.mark.parametrize(("side", "count"), [(8, 500), (16, 500), (32, 128), (96, 16), (224, 16)])
def test_larger_images_are_taken_fewer_at_once(side: int, count: int) -> None:
    assert at_once(torch.empty(1, 3, side, side)) == count
    assert at_once(torch.empty(1, 3, side, side, device="meta")) == 500


def test_outputs_do_not_depend_on_how_many_are_taken_at_once() -> None:
    torch.manual_seed(0)
    net, x = place(ResNet18(width=8).build(3, (3, 16, 16)), CPU), torch.rand(70, 3, 16, 16)
    whole = logits(net, x, batch=70)
    for size in (16, 33, 64):
        torch.testing.assert_close(logits(net, x, batch=size), whole, rtol=0, atol=1e-5)

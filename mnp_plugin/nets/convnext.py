"""A small ConvNeXt for pictures of about 32 pixels: torchvision's blocks, a finer stem, three stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn

from mnp_plugin.contracts import Net, nets, param
from mnp_plugin.core.errors import UserError

STAGES = 3


@nets.register("convnext")
@dataclass(frozen=True, kw_only=True)
class SmallConvNeXt(Net):
    """Stem of one ``patch`` x ``patch`` convolution, then three stages of widths w, 2w, 4w, each half as fine as the one before;
    depthwise 7x7 convolutions, LayerNorm, no batch normalisation. Names of torchvision's ``ConvNeXt``.

    The paper's stem of stride 4 and its four stages would leave one pixel of a 32-pixel picture. Layer scale starts at 1, not
    at 1e-6, and no block is dropped: SGD does not lift such small scales within the few epochs that a small net is trained.
    """

    paper = "Liu et al., A ConvNet for the 2020s, CVPR 2022, arXiv 2201.03545"

    width: int = param(32, "channels of the first stage", low=4, high=512)
    depth: int = param(2, "blocks in each stage", low=1, high=32)
    patch: int = param(2, "side and stride of the first convolution, in pixels", low=1, high=16)

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        from torchvision.models.convnext import CNBlockConfig, ConvNeXt  # here: importing torchvision takes seconds

        channels, height, width = shape
        least = self.patch * 2 ** (STAGES - 1)
        if min(height, width) < least:
            raise UserError(
                f"convnext with patches of {self.patch} needs images of at least {least}x{least} pixels, not {height}x{width}"
            )
        widths = [self.width * 2**stage for stage in range(STAGES)]
        stages = [CNBlockConfig(a, b, self.depth) for a, b in zip(widths, [*widths[1:], None], strict=True)]
        model = ConvNeXt(stages, layer_scale=1.0, num_classes=num_classes)
        stem = nn.Conv2d(channels, self.width, self.patch, self.patch)
        nn.init.trunc_normal_(stem.weight, std=0.02)
        model.features[0][0] = stem
        return cast(nn.Module, model)

"""A small vision transformer for pictures of about 32 pixels: torchvision's layers, small patches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from mnp_plugin.contracts import Net, nets, param
from mnp_plugin.core.errors import UserError


@nets.register("vit")
@dataclass(frozen=True, kw_only=True)
class SmallViT(Net):
    """Patches of ``patch`` x ``patch`` pixels, a class token, ``depth`` pre-norm blocks whose MLPs are twice as wide as
    the stream. Names of torchvision's ``VisionTransformer``; square images that the patches tile.
    """

    paper = "Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv 2010.11929"

    width: int = param(64, "numbers for each patch; divisible by heads", low=4, high=1024)
    depth: int = param(4, "blocks", low=1, high=48)
    heads: int = param(4, "attention heads in each block", low=1, high=64)
    patch: int = param(4, "side of a patch, in pixels", low=1, high=32)

    def validate(self) -> None:
        if self.width % self.heads:
            raise UserError(f"SmallViT.width must be divisible by heads ({self.heads}), not {self.width}")

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        from torchvision.models import VisionTransformer  # here: importing torchvision takes seconds

        channels, height, width = shape
        if height != width or height % self.patch:
            raise UserError(f"vit needs square images that patches of {self.patch} pixels tile, not {height}x{width}")
        model: nn.Module = VisionTransformer(
            image_size=height,
            patch_size=self.patch,
            num_layers=self.depth,
            num_heads=self.heads,
            hidden_dim=self.width,
            mlp_dim=2 * self.width,
            num_classes=num_classes,
        )
        if channels != 3:
            model.conv_proj = nn.Conv2d(channels, self.width, self.patch, self.patch)
            nn.init.trunc_normal_(model.conv_proj.weight, std=math.sqrt(1 / (channels * self.patch**2)))
        return model

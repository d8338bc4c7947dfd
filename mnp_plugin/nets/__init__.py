"""Backbones. :func:`build_net` puts the normalisation inside, so that pixels are [0, 1] everywhere else."""

from __future__ import annotations

from mnp_plugin.nets.normalise import Normalise, build_net, normalise_inside, with_normalisation

__all__ = ["Normalise", "build_net", "normalise_inside", "with_normalisation"]

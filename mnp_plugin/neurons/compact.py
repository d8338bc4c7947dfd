"""Really remove pruned channels: a smaller net with equal outputs.

Which layers depend on which is found by Torch-Pruning (Fang et al., DepGraph, CVPR 2023, arXiv 2301.12900), an optional extra;
whether a channel may go is decided here, by comparing outputs.
"""

from __future__ import annotations

import copy
import io
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from mnp_plugin.core.errors import UserError

TOLERANCE = 1e-8
"""Largest difference of logits, in float64 and relative to the largest logit, that a removal may make."""


@dataclass(frozen=True, eq=False)
class Compacted:
    """A smaller net and what it was compared on.

    Args:
        model: same outputs, fewer channels, eval mode; its ``state_dict`` has the same keys with other shapes.
        removed: channels of batch normalisations removed, by layer.
        kept: silent channels (scale 0) that had to stay: constants that the next layers use, or members of a residual
            stream in which other layers still write.
        parameters: (before, after).
        difference: largest absolute difference of logits in the net's own precision.
        speed: time of the net before over the time after, medians measured side by side.
    """

    model: nn.Module
    removed: dict[str, int]
    kept: int
    parameters: tuple[int, int]
    difference: float
    speed: float


def check_net(model: nn.Module) -> None:
    """Raise :class:`UserError` for a net without channels that could be removed."""
    if not _widths(model):
        raise UserError(
            "--compact removes channels of BatchNorm2d layers, and this net has none; repair it without --compact: the pruned "
            "weights are zeros in a net of the same size"
        )


def check_available() -> None:
    """Raise :class:`UserError` where the library is not installed."""
    try:
        import torch_pruning  # noqa: F401
    except ImportError:
        raise UserError("--compact needs the package torch-pruning; run: pip install 'mnp_plugin[compact]'") from None


def compact(model: nn.Module, x: Tensor) -> Compacted:
    """Remove the channels of ``model`` that say nothing.

    Candidates are channels of a ``BatchNorm2d`` whose scale is 0 and whose bias is at most 0, which is silence before a ReLU.
    Each set of candidates is removed from a float64 copy together with all that depends on it, and stays removed only if
    the logits of ``x`` and of random pixels are equal before and after. So a channel that is a constant other than 0 (scale
    0 and bias kept, as ANP prunes), and one in a residual stream that others still write to, stays.

    Args:
        model: takes float32 [N, C, H, W] in [0, 1]; stays as it is.
        x: images to compare on, float32 [N, C, H, W] in [0, 1], on the device of the net.

    Raises:
        UserError: the library is missing or cannot follow the net, or the net has no ``BatchNorm2d``.
    """
    check_available()
    check_net(model)
    probe = torch.cat([x, torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device)]).double()
    small = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        wanted = small(probe)
    widths = _widths(small)
    for name in widths:
        small = _without(small, name, probe, wanted) or small
    small = small.to(next(model.parameters()).dtype).eval()
    model.eval()
    with torch.no_grad():
        difference = float((model(x) - small(x)).abs().max())
    now = _widths(small)
    return Compacted(
        model=small,
        removed={name: widths[name] - now[name] for name in widths if now[name] < widths[name]},
        kept=sum(int((bn.weight == 0).sum()) for _, bn in _norms(small)),
        parameters=(_parameters(model), _parameters(small)),
        difference=difference,
        speed=_speed(model, small, x),
    )


def _without(model: nn.Module, name: str, probe: Tensor, wanted: Tensor) -> nn.Module | None:
    """A copy of ``model`` without the silent channels of BN ``name``, as many of them as leave the outputs equal."""
    bound = TOLERANCE * max(1.0, float(wanted.abs().max()))
    tried: list[list[int]] = []
    for shared in (False, True):
        for strict in (False, True):
            trial = copy.deepcopy(model)
            silent = _silent(trial.get_submodule(name), strict)
            if not silent:
                continue
            graph, group = _group(trial, name, silent, probe[:1])
            if shared:
                silent = _silent_everywhere(group, silent, strict)
                graph, group = _group(trial, name, silent, probe[:1]) if silent else (graph, group)
            if not silent or silent in tried or not graph.check_pruning_group(group):  # the last channel stays
                continue
            tried.append(silent)
            group.prune()
            with torch.no_grad():
                found = trial(probe)
            if found.shape == wanted.shape and float((found - wanted).abs().max()) <= bound:
                return trial
    return None


def _group(model: nn.Module, name: str, channels: list[int], example: Tensor):  # type: ignore[no-untyped-def]
    """(dependency graph, group) of the removal of ``channels`` of BN ``name``."""
    import torch_pruning as tp

    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # about parameters outside of layers, which the comparison of outputs covers
            model.requires_grad_(True)
            graph = tp.DependencyGraph().build_dependency(model, example_inputs=example)
            bn = model.get_submodule(name)
            return graph, graph.get_pruning_group(bn, tp.prune_batchnorm_out_channels, idxs=channels)
    except (RuntimeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        raise UserError(f"--compact cannot follow this net: {error}") from None


def _silent(bn: nn.Module, strict: bool) -> list[int]:
    assert isinstance(bn, nn.BatchNorm2d)
    quiet = bn.bias == 0 if strict else bn.bias <= 0
    return [int(i) for i in ((bn.weight == 0) & quiet).nonzero().flatten()][: bn.num_features - 1]


def _silent_everywhere(group, channels: list[int], strict: bool) -> list[int]:  # type: ignore[no-untyped-def]
    """Those of ``channels`` that are silent in every BN of the group."""
    left = set(channels)
    for item in group:
        if isinstance(item.dep.target.module, nn.BatchNorm2d):
            silent = set(_silent(item.dep.target.module, strict))
            left -= {root for own, root in zip(item.idxs, item.root_idxs, strict=True) if own not in silent}
    return sorted(left)


def _norms(model: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            yield name, module


def _widths(model: nn.Module) -> dict[str, int]:
    return {name: bn.num_features for name, bn in _norms(model)}


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _speed(before: nn.Module, after: nn.Module, x: Tensor, rounds: int = 7) -> float:
    """Ratio of median times, the two nets taking turns so that a change of load meets both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for net, kept in zip((before, after), times, strict=True):
            with torch.no_grad():
                start = time.perf_counter()
                net(x)
                if x.device.type == "cuda":
                    torch.cuda.synchronize(x.device)
                kept.append(time.perf_counter() - start)
    return median(times[0][1:]) / median(times[1][1:])


def export(model: nn.Module, x: Tensor) -> tuple[bytes, float]:
    """(content of a ``.pt2`` file of ``torch.export``, largest difference of logits after reading it back).

    It holds the graph and the weights, normalisation inside, for any number of images: ``torch.export.load(path).module()``
    runs it without this package.

    Args:
        model: takes float32 [N, C, H, W] in [0, 1].
        x: at least 2 images, float32 [N, C, H, W] in [0, 1].

    Raises:
        UserError: the net cannot be exported.
    """
    batch = torch.export.Dim("batch", min=1)
    try:
        program = torch.export.export(model.eval(), (x,), dynamic_shapes=({0: batch},), strict=False)
        stream = io.BytesIO()
        torch.export.save(program, stream)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"torch.export cannot write this net: {str(error).splitlines()[0]}") from None
    again = torch.export.load(io.BytesIO(stream.getvalue())).module()
    with torch.no_grad():
        return stream.getvalue(), float((again(x) - model(x)).abs().max())

"""Device, precision and memory layout: the one place that chooses them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from mnp_plugin.core.errors import UserError

M = TypeVar("M", bound="nn.Module")


def pick_device(name: str) -> torch.device:
    """``auto`` takes CUDA where there is one, else the CPU.

    Raises:
        UserError: an unknown device, or one this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).add_(1).item()  # item(): the meta device holds no numbers
    except (RuntimeError, AssertionError, ImportError) as error:  # the last where a backend is a package of its own
        reason = str(error).splitlines()[0]
        raise UserError(f"no device '{name}' here ({reason}); use auto, cpu, cuda or cuda:N") from None
    return device


def pick_devices(names: str) -> tuple[torch.device, ...]:
    """Devices separated by commas, as :func:`pick_device` takes them; ``cuda:0,1`` is short for ``cuda:0,cuda:1``.

    Raises:
        UserError: as there.
    """
    first, *others = names.split(",")
    kind = first.partition(":")[0]
    return tuple(pick_device(name) for name in (first, *(f"{kind}:{o}" if o.isdecimal() else o for o in others)))


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16: as asked, or, on ``auto``, where the hardware computes in it (else it is slower)."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    info = Path("/proc/cpuinfo")
    if device.type != "cpu" or not info.exists():
        return False
    flags = info.read_text(encoding="utf-8")
    return "amx_bf16" in flags or "avx512_bf16" in flags


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast context for ``precision`` on ``device``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(precision, device))


def place(model: M, device: torch.device, example: Tensor | None = None) -> M:
    """Move ``model`` to ``device`` in place, in the memory layout that is fastest there and right.

    That is channels_last (1.3 to 1.4 times as fast on a CPU), but for nets that torch or their own code cannot run in it.

    Args:
        model: any net of images.
        device: where it shall be.
        example: images it takes, float32 [N, C, H, W]. Give some for a net from elsewhere: one that reshapes with ``view``
            runs in the contiguous layout only, which a forward pass on them shows.
    """
    model.to(device=device)
    if _corrupts_memory(model) or (example is not None and not _takes_channels_last(model, example.to(device))):
        layout = torch.contiguous_format
    else:
        layout = torch.channels_last
    model.to(memory_format=layout)
    return model


def in_default_layout(model: M) -> M:
    """``model`` with its weights in the contiguous layout, in place: as nets are handed out and exported."""
    return model.to(memory_format=torch.contiguous_format)


def layout_of(model: nn.Module) -> torch.memory_format:
    """The layout :func:`place` chose for ``model``, read from its weights; contiguous for a net that was never placed."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_contiguous():
            return torch.channels_last
    return torch.contiguous_format


def at_once(x: Tensor) -> int:
    """How many of the images ``x`` [N, C, H, W] a net had best take at once where nothing is learned.

    On a CPU as many as leave what one layer hands to the next in its cache: a ResNet-18 of width 16 then takes 0.6 of the time
    at 32 pixels and half at 96. Its outputs stay the same to the bit, but for a last part of a few images.
    """
    return min(max(2**17 // (x.shape[-2] * x.shape[-1]), 16), 500) if x.device.type == "cpu" else 500


def in_layout_of(model: nn.Module, x: Tensor) -> Tensor:
    """Images [N, C, H, W] in the memory layout of ``model``."""
    return x.contiguous(memory_format=layout_of(model))


def _corrupts_memory(model: nn.Module) -> bool:
    """Whether the backward pass of a convolution of ``model`` would write out of bounds in channels_last.

    So it is in torch 2.15 on CPUs without AVX-512 for strided 1x1 convolutions of 2 to 7 input channels; wider ones, other
    kernels and depthwise ones give the right gradients. Such a net has the contiguous layout everywhere, so that its numbers
    do not depend on the processor's kind more than they must.
    """
    return any(
        isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1) and 1 < m.in_channels // m.groups < 8
        for m in model.modules()
    )


def _takes_channels_last(model: nn.Module, x: Tensor) -> bool:
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(x.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    finally:
        model.train(was_training)
    return True

"""Named tensors as safetensors files hold them: groups of them in one flat mapping, and whole files with a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mnp_plugin.core.params import checksum


def prefixed(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` with their names put under ``group``."""
    return {f"{group}.{name}": value for name, value in tensors.items()}


def part(group: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo :func:`prefixed`: what lies under ``group``, its names without it."""
    start = f"{group}."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}


DIGEST = "sha256"
"""Key of the checksum of the tensors."""
WHOLE = "sha256_of_all"
"""Key of the checksum over all other metadata, that of the tensors among them."""


def packed(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """A safetensors file of ``tensors``, with JSON-ready facts and checksums as metadata; equal input gives equal bytes."""
    own = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    meta = {key: json.dumps(value, sort_keys=True) for key, value in {**about, DIGEST: digest(own)}.items()}
    meta[WHOLE] = json.dumps(checksum(meta))  # JSON as all of it: a reader that does not know the key reads on
    content = save(own, metadata=meta)
    size = int.from_bytes(content[:8], "little")
    # safetensors writes metadata in the order of a hash map, which differs from run to run
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def unpacked(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Undo :func:`packed`; None if the file is damaged. Checksums that files of older versions lack are not asked for."""
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        texts = json.loads(content[8 : 8 + size])["__metadata__"]
        about = {key: json.loads(value) for key, value in texts.items()}
        texts.pop(WHOLE, None)
    except (SafetensorError, KeyError, ValueError, RecursionError):
        return None
    if about.pop(WHOLE, None) not in (None, checksum(texts)):
        return None
    return (tensors, about) if about.pop(DIGEST, None) in (None, digest(tensors)) else None


def said_of(head: bytes) -> dict[str, Any] | None:
    """What :func:`packed` was told about the tensors, and their checksum, from the beginning of a file; None if it is damaged.

    Args:
        head: the first bytes, as many as :func:`head_size` says.
    """
    try:
        return {key: json.loads(value) for key, value in json.loads(head[8:])["__metadata__"].items()}
    except (KeyError, ValueError, RecursionError, AttributeError, TypeError):
        return None


def head_size(start: bytes) -> int:
    """Bytes of a file before its tensors, from its first eight."""
    return 8 + int.from_bytes(start[:8], "little")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and contents, wherever the tensors live and however they lie in memory."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu()
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()

"""What people have where a state dict is expected, recognised by its first bytes or its records; one sentence for each kind."""

from __future__ import annotations

import struct
from collections.abc import Sequence

SAVE = "torch.save(model.state_dict(), 'weights.pt')"


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of ``size`` bytes that begins with ``head`` has the form of safetensors, whatever its name."""
    return len(head) > 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8


def whole_model(path: str) -> str:
    """The sentence for an object of class ``path`` where a state dict belongs."""
    return (
        f"this file holds a whole model or object (of class {path}), which could only be read by executing its code; "
        f"where its class can be imported, save the weights alone: {SAVE}"
    )


def kind_of_file(head: bytes, suffix: str) -> str:
    """What a file is that begins with ``head`` and is neither a zip file nor one of torch's legacy format."""
    start = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs, not the file itself; run 'git lfs pull'"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page (HTML), as a failed download leaves one; download the file again"
    if head[257:262] == b"ustar":
        return f"it is a tar archive: unpack it, or if torch before 0.4 wrote it, load it with torch and save again with {SAVE}"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd", b"Rar!")):
        return "it is compressed; unpack it first"
    if suffix == ".onnx" or (head[:1] == b"\x08" and b"pytorch" in head[:64]):
        return f"it is an ONNX graph, which cannot be pruned or trained here; export the net that it was made from: {SAVE}"
    if head.startswith(b"\x89HDF"):
        return f"it is an HDF5 file (Keras), no file of PyTorch; give one of {SAVE}"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return f"it is a pickle that was not written by torch.save with its usual settings; write it again with {SAVE}"
    return "it was not written by torch.save"


def kind_of_archive(names: Sequence[str]) -> str | None:
    """What a zip file of records ``names`` is, if it is no file of ``torch.save``."""
    last = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last:
        return f"it is a TorchScript archive, which holds code; where its class can be imported: {SAVE}"
    if last & {"archive_format", "serialized_exported_program.json", "model.json"}:
        return (
            "it is a program of torch.export (.pt2), as 'purify --compact' writes one: "
            f"it holds a graph, not the net; give the state dict of the net it was made from: {SAVE}"
        )
    if names and all(name.endswith(".npy") for name in names):
        return "it is a NumPy archive (.npz); give a file of torch.save or safetensors"
    return None

"""What people have where a state dict is expected: read if a state dict is in it, else one sentence that says what it is."""

from __future__ import annotations

import argparse
import io
import tarfile
import warnings
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from mnp_plugin.core.errors import UserError
from mnp_plugin.io.safe import read_plain, read_tensors, weights_into


class Settings(dict[str, Any]):
    """A dictionary of a class that nobody else has."""


class Wrapper:
    """An object with items in a list, a slot and a bound method."""

    def __init__(self) -> None:
        self.callback = self.run
        self.inner = [Settings(a=1)]

    def run(self) -> None:
        """Nothing."""


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


WEIGHTS = net().state_dict()
BESIDE: dict[str, Any] = {
    "args": argparse.Namespace(lr=0.1, path=Path("a/b")),
    "meters": defaultdict(list, {1: [2.0]}),
    "milestones": Counter([30, 30, 60]),
    "out": Path("a/b"),
    "device": torch.device("cpu"),
    "dtype": torch.float16,
    "layout": torch.strided,
    "settings": Settings(a=1, b=Settings(c=2)),
    "object": Wrapper(),
    "function": torch.nn.functional.relu,
    "optimizer": torch.optim.SGD(net().parameters(), 0.1, momentum=0.9).state_dict(),
    "complex": 1 + 2j,
    "date": np.datetime64("2020-01-01"),
    "objects": np.array([{}], dtype=object),
    "generator": np.random.RandomState(0).get_state(),
    "model_ema": net(),
    "buffer": bytearray(b"abc"),
    "frozen": frozenset({1}),
    "slice": slice(1, 2),
    "sparse": torch.eye(2).to_sparse(),
}


def assert_weights(found: dict[str, Tensor]) -> None:
    assert list(found) == list(WEIGHTS)
    assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize("what", BESIDE)
@pytest.mark.parametrize("zip_format", [True, False])
def test_a_state_dict_is_read_whatever_stands_beside_it(what: str, zip_format: bool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    content = {"epoch": 3, what: BESIDE[what], "state_dict": WEIGHTS, "last": BESIDE[what]}
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    assert_weights(read_tensors(path))


def test_plain_values_stay_plain(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "args": BESIDE["args"]}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt is not read: it asks for 'argparse\.Namespace', which plain values do not need"):
        read_plain(tmp_path / "x.pt")


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "model_state_dict", "weights", "params"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "model._orig_mod."]
)
def test_weights_fit_under_every_usual_name(key: str, prefix: str, tmp_path: Path) -> None:
    path, target = tmp_path / "w.pt", net()
    nn.init.zeros_(target[0].weight)  # type: ignore[arg-type]
    torch.save({key: OrderedDict((prefix + name, value) for name, value in WEIGHTS.items()), "epoch": 1}, path)
    weights_into(target, read_tensors(path), path)
    assert_weights(target.state_dict())


def test_names_that_belong_to_the_net_are_kept() -> None:
    inner = nn.ModuleDict({"model": net()})
    weights_into(inner, {f"model.{key}": value for key, value in WEIGHTS.items()}, "w.pt")
    with pytest.raises(UserError, match=r"missing model\.0\.weight"):
        weights_into(inner, WEIGHTS, "w.pt")


def test_batches_that_old_torch_did_not_count_are_zero() -> None:
    target = net()
    target[1].num_batches_tracked.fill_(7)  # type: ignore[union-attr, operator]
    weights_into(target, {key: value for key, value in WEIGHTS.items() if "num_batches" not in key}, "w.pt")
    assert int(target.state_dict()["1.num_batches_tracked"]) == 0
    with pytest.raises(UserError, match=r"missing 1\.weight, 1\.bias, 1\.running_mean and 2 more"):
        weights_into(target, {key: value for key, value in WEIGHTS.items() if not key.startswith("1.")}, "w.pt")


def test_expanded_tensors_are_read(tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([2.0]).expand(64, 512), "b": torch.ones(1)}, tmp_path / "w.pt")
    assert torch.equal(read_tensors(tmp_path / "w.pt")["w"], torch.full((64, 512), 2.0))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "uint16", "bfloat16", "float16", "float64", "complex64"])
@pytest.mark.parametrize("zip_format", [True, False])
def test_numbers_of_every_width_are_read(dtype: str, zip_format: bool, tmp_path: Path) -> None:
    value = torch.tensor([0.5, 2.0, 4.0]).to(getattr(torch, dtype))
    torch.save({"w": value}, tmp_path / "w.pt", _use_new_zipfile_serialization=zip_format)
    found = read_tensors(tmp_path / "w.pt")["w"]
    assert found.dtype == value.dtype
    assert torch.equal(found.to(torch.complex64), value.to(torch.complex64))


def test_tensors_that_shared_memory_share_it(tmp_path: Path) -> None:
    tied = torch.arange(6.0)
    torch.save({"a": tied, "b": tied[2:4]}, tmp_path / "w.pt")
    found = read_tensors(tmp_path / "w.pt")
    found["a"][2] = 9
    assert found["b"].tolist() == [9, 3]


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.safetensors"])
def test_safetensors_are_read_whatever_their_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(save_safetensors(WEIGHTS, {"format": "pt"}))
    assert read_tensors(tmp_path / name).keys() == WEIGHTS.keys()


def bytes_of(save: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its older formats deprecated
        save(stream)
    return stream.getvalue()


def tar() -> bytes:
    def save(stream: io.BytesIO) -> None:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("sys_info"))

    return bytes_of(save)


def exported(stream: io.BytesIO) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), stream)


KINDS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "whole model": (
        "m.pt",
        lambda: bytes_of(lambda s: torch.save(net(), s)),
        r"whole model or object \(of class 'torch\.nn\.modules\.container\.Sequential'\).*torch\.save\(model\.state_dict\(\)",
    ),
    "whole model, legacy": (
        "m.pt",
        lambda: bytes_of(lambda s: torch.save(net(), s, _use_new_zipfile_serialization=False)),
        "whole model or object",
    ),
    "whole model in a checkpoint": ("m.pt", lambda: bytes_of(lambda s: torch.save({"model": net()}, s)), "whole model or object"),
    "TorchScript": ("m.pt", lambda: bytes_of(lambda s: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), s)), "TorchScript"),
    "torch.export": ("m.pt2", lambda: bytes_of(exported), r"torch\.export \(\.pt2\), as 'purify --compact' writes"),
    "ONNX": ("m.onnx", lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "ONNX graph"),
    "ONNX by another name": ("m.pt", lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "ONNX graph"),
    "tar": ("m.pth.tar", tar, r"tar archive.*before 0\.4"),
    "git-lfs": ("m.pt", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "git lfs pull"),
    "HTML": ("m.pt", lambda: b"\n<!DOCTYPE html><html><title>404</title></html>", "web page"),
    "gzip": ("m.pt", lambda: b"\x1f\x8b\x08\x00" + bytes(40), "compressed; unpack"),
    "Keras": ("m.h5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
    "NumPy archive": ("m.npz", lambda: bytes_of(lambda s: np.savez(s, a=np.ones(2))), r"\.npz"),
    "text": ("m.pt", lambda: b"hello", r"not written by torch\.save"),
    "empty dictionary": ("m.pt", lambda: bytes_of(lambda s: torch.save({}, s)), "but an empty dictionary; save one"),
    "other dictionary": ("m.pt", lambda: bytes_of(lambda s: torch.save({"a": 1, 2: "b"}, s)), "the keys a, 2; save one"),
    "a value among tensors": (
        "m.pt",
        lambda: bytes_of(lambda s: torch.save({**WEIGHTS, "epoch": 3}, s)),
        "dictionary whose 'epoch' is no dense tensor but of type int",
    ),
    "a sparse tensor": (
        "m.pt",
        lambda: bytes_of(lambda s: torch.save({"b": torch.ones(2), "w": torch.eye(2).to_sparse()}, s)),
        "'w' is no dense tensor but an object of class 'torch._utils._rebuild_sparse_tensor'",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_are_named_for_what_they_are(kind: str, tmp_path: Path) -> None:
    name, content, sentence = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(content())
    with pytest.raises(UserError, match=sentence) as caught:
        read_tensors(path)
    assert str(caught.value).startswith(f"{path} is not read: ")
    assert "\n" not in str(caught.value)

"""A training that is interrupted goes on between two epochs, to the very same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.partial import Partial
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import VictimSpec
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.contracts import State
from mnp_plugin.report.records import from_json

SUITE = """
dataset: {name: digits, size: 8}
net: {name: smallnet, width: 4}
recipe: {epochs: 4, batch_size: 256, crop: 1, flip: false, small_epochs: 2, small_scale: 0.5}
clean_budget: {images: 40}
attacks:
  - badnets
  - {name: wanet, poison_ratio: 0.01}
  - bpp
  - {name: input_aware, width: 4, mask_epochs: 1}
  - {name: lira, eps: 0.05}
defenses: [none]
"""
DROPOUT = """
dataset: {name: digits, size: 32}
net: {name: vgg19-bn, width: 1}
recipe: {epochs: 2, batch_size: 256, crop: 1, flip: false, precision: float32}
clean_budget: {images: 40}
attacks: [badnets]
defenses: [none]
"""
VICTIMS = parse_suite(SUITE, "test", "interrupted").victims


def trained(
    victim: VictimSpec,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int | None,
    stopped: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Weights and trigger state of a victim, its training stopped once after some epochs and taken up again."""
    store = Store(folder / "store", folder / "results")
    suite = replace(parse_suite(SUITE, "test", "interrupted"), victims=(victim,))
    monkeypatch.setattr(Partial, "EVERY", 0.0)
    if stop_after is not None:
        with monkeypatch.context() as patch:
            save = Partial.save

            def interrupt(self: Partial, state: State) -> None:
                save(self, state)
                if int(state["done"]) == stop_after:
                    raise KeyboardInterrupt

            patch.setattr(Partial, "save", interrupt)
            with pytest.raises(KeyboardInterrupt):
                Runner(suite, store, torch.device("cpu")).run()
        assert store.load_victim(victim) is None
        assert store.load_partial(victim) is not None
        stopped(stop_after)
    Runner(suite, store, torch.device("cpu")).run()
    assert store.load_partial(victim) is None, "what was kept for an interruption stays behind"
    found = store.load_victim(victim)
    assert found is not None
    return {**{f"model.{k}": v for k, v in found[0].items()}, **found[1]}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "victim", [*VICTIMS, *parse_suite(DROPOUT, "test", "dropout").victims], ids=lambda v: f"{v.net.label}-{v.attack.label}"
)
def test_an_interrupted_training_ends_in_the_same_victim(
    victim: VictimSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(victim, tmp_path / "whole", monkeypatch, None)
    resumed = trained(victim, tmp_path / "resumed", monkeypatch, victim.recipe.epochs - 1)
    assert whole.keys() == resumed.keys()
    different = [key for key in whole if not torch.equal(whole[key], resumed[key])]
    assert not different


def test_a_resumed_training_trains_only_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    train = stages.train_victim

    def counted(*args: Any) -> Any:
        *first, progress, keep = args

        def count(done: int, of: int, loss: float) -> None:
            epochs.append(done)
            progress(done, of, loss)

        return train(*first, count, keep)

    monkeypatch.setattr(stages, "train_victim", counted)
    trained(VICTIMS[0], tmp_path, monkeypatch, 2)
    assert epochs == [1, 2, 3, 4]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 0x40
    path.write_bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The first victim, trained without an interruption."""
    with pytest.MonkeyPatch.context() as patch:
        return trained(VICTIMS[0], tmp_path_factory.mktemp("whole"), patch, None)


def changed(**values: Any) -> Callable[[State], State]:
    return lambda state: {**state, **{name: torch.as_tensor(value) for name, value in values.items()}}


def without(part: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if not name.startswith(part)}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "change",
    [
        *map(without, ("seconds", "generator", "model.")),
        *(changed(done=done) for done in (-5, 99)),
        changed(seconds=float("nan")),
        lambda state: changed(**{"momentum.999": 0.0})(state),
        lambda state: {name: value * float("nan") if name.startswith("model.0") else value for name, value in state.items()},
        None,
    ],
)
def test_a_rest_that_is_not_one_of_this_training_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any], change: Callable[[State], State] | None
) -> None:
    """Left by another version, say: its checksum is right. The last one is a flipped bit."""
    victim = VICTIMS[0]
    store = Store(tmp_path / "store", tmp_path / "results")

    def damage(done: int) -> None:
        path = next((tmp_path / "store").rglob("*.partial"))
        if change is None:
            flip(path)
            return
        state = store.load_partial(victim)
        assert state is not None
        store.save_partial(victim, change(state))

    found = trained(victim, tmp_path, monkeypatch, 2, damage)
    assert all(torch.equal(value, found[name]) for name, value in whole.items())
    (record,) = (tmp_path / "results").rglob("records/*.json")
    assert from_json(record.read_text(), str(record)).status == "ok"


def test_the_rest_of_another_training_is_not_taken(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", tmp_path / "results")
    store.save_partial(VICTIMS[0], {"done": torch.tensor(1)})
    (path,) = (tmp_path / "store").rglob("*.partial")
    path.rename(path.with_stem(VICTIMS[1].fingerprint))
    assert store.load_partial(VICTIMS[1]) is None


def test_a_training_that_fails_of_itself_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fails(*_: Any) -> Any:
        calls.append(1)
        raise RuntimeError("no such card")

    monkeypatch.setattr(stages, "train_victim", fails)
    suite = replace(parse_suite(SUITE, "test", "interrupted"), victims=VICTIMS[:1])
    summary = Runner(suite, Store(tmp_path / "store", tmp_path / "results"), torch.device("cpu")).run()
    (record,) = summary.failed
    assert record.reason.startswith("victim: RuntimeError: no such card")
    assert calls == [1]


def test_a_damaged_rest_is_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", tmp_path / "results")
    victim = VICTIMS[0]
    store.save_partial(victim, {"done": torch.tensor(1)})
    path = next((tmp_path / "store").rglob("*.partial"))
    path.write_bytes(path.read_bytes()[:-3])
    assert store.load_partial(victim) is None
    assert not path.exists()
